"""Write a client's settings: what was there is kept beside it, and a crash leaves the old file or the new one."""

import os
import tempfile
from datetime import datetime
from pathlib import Path

from server.cli.connect.connection import ConnectFailed, Connection

_PRIVATE, _USUAL = 0o600, 0o644


def write(connection: Connection) -> tuple[Path, Path | None]:
    """Write the settings; returns the file, and the copy of what it was, or None where there was nothing to keep.

    Raises ConnectFailed where there is no file to write, or it cannot be written.
    """
    if connection.path is None:
        raise ConnectFailed("This client has no settings file to write: use what is shown without --write.")
    path = connection.path.resolve()  # the file of somebody who keeps links to it in its place
    try:
        present = path.read_text(encoding="utf-8") if path.exists() else None
        wanted = connection.text if connection.merge is None else connection.merge(present or "")
        if wanted == present:
            return path, None
        path.parent.mkdir(parents=True, exist_ok=True)
        copy = None if present is None else _copy(path, present)
        mode = _PRIVATE if connection.has_key else path.stat().st_mode & 0o777 if present is not None else _USUAL
        _replace(path, wanted, mode)
    except (OSError, UnicodeDecodeError) as error:
        raise ConnectFailed(
            f"{path} cannot be written: {getattr(error, 'strerror', None) or 'it is no text'}."
        ) from None
    return path, copy


def _copy(path: Path, content: str) -> Path:
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    copy = path.with_name(f"{path.name}.{stamp}.bak")
    number = 1
    while copy.exists():
        number += 1
        copy = path.with_name(f"{path.name}.{stamp}-{number}.bak")
    _replace(copy, content, path.stat().st_mode & 0o777)
    return copy


def _replace(path: Path, content: str, mode: int) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
