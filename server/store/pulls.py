"""Downloads on their way into the models' folder, whichever process makes them. Reads only: takes no part in them."""

import fcntl
import os
from pathlib import Path

from server.store.errors import ModelIdInvalid
from server.store.model_id import parse_model_id
from server.store.staging import PARTIAL
from server.store.store import Store
from server.wire.status import PullStatus


def pulls_in(store: Store) -> list[PullStatus]:
    """The pulls that run, and the interrupted pulls that can be taken up again."""
    try:
        folders = sorted(path for path in (store.root / PARTIAL).iterdir() if path.is_dir())
    except OSError:
        return []
    found = [_pull(store, folder) for folder in folders]
    return [pull for pull in found if pull is not None]


def _pull(store: Store, folder: Path) -> PullStatus | None:
    model_id = _model_id(folder.name)
    done_bytes = _num_bytes(folder)
    running = _is_locked(folder.with_name(f"{folder.name}.lock"))
    if model_id is None or not (running or done_bytes):
        return None
    entry = store.catalog.find(model_id)
    total_bytes = 0 if entry is None else entry.wheel.bytes
    return {
        "id": model_id,
        "state": "running" if running else "interrupted",
        "done_bytes": done_bytes,
        "total_bytes": total_bytes,
    }


def _model_id(folder_name: str) -> str | None:
    """The way back from a folder's name: of two parts the first is the organisation."""
    organisation, *rest = folder_name.split("--")
    text = organisation if not rest else f"{organisation}/{':'.join(rest)}"
    try:
        return str(parse_model_id(text))
    except ModelIdInvalid:
        return None


def _is_locked(path: Path) -> bool:
    """Whether a process is at work. Asks for a shared lock and gives it back at once."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _num_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).lstat().st_size
            except OSError:  # it has just been renamed
                continue
    return total
