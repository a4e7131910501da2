"""Disk: the models' folder, what lies in it, and the room that is left. Reads names and sizes, no weights."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from server.cli.doctor.finding import Finding, failure, ok, warning
from server.settings import Settings
from server.sizes import megabytes
from server.store.places import other_places
from server.store.staging import PARTIAL
from server.store.store import Store

_LEAST_FREE_BYTES = 5_000_000_000


def look(settings: Settings) -> Iterator[Finding]:
    """The folder of models, the models, unfinished downloads, and the folder of prefixes."""
    yield _folder("models' folder", settings.models_dir, "--models-dir names another place.")
    others = other_places(settings.lm_studio_folders, settings.ollama_folders)
    yield from _models(Store(settings.models_dir, settings.hub_cache, others=others))
    yield _disk(settings.models_dir)
    if settings.prefix_disk_gb:
        yield _folder("prefix folder", settings.prefix_folder, "--prefix-disk-gb 0 keeps none on disk.")


def _folder(name: str, folder: Path, mend: str) -> Finding:
    parent = _existing(folder)
    if not os.access(parent, os.W_OK | os.X_OK) or not parent.is_dir():
        return failure(name, f"{folder} cannot be written", f"Give yourself the right to write there; {mend}")
    return ok(name, str(folder))


def _models(store: Store) -> Iterator[Finding]:
    whole = store.list()
    ids = {model.id for model in whole}
    broken = [
        manifest.id
        for folder in store.folders()
        if (manifest := store.manifest(folder)) is not None and manifest.id not in ids
    ]
    if broken:
        mend = f"`bramley verify {broken[0]}` says what is wrong; `bramley pull {broken[0]}` fetches it anew."
        yield failure("models", f"damaged: {', '.join(broken)}", mend)
    elif not whole:
        yield warning(
            "models", "none", "`bramley pull smollm2-135m` fetches a small one, and `bramley serve` does so itself."
        )
    else:
        yield ok("models", f"{len(whole)}, {megabytes(sum(model.num_bytes for model in whole))}")
    unfinished = _unfinished(store.root)
    if unfinished:
        mend = f"`bramley pull {unfinished[0]}` goes on, `bramley rm {unfinished[0]}` gives it up."
        yield warning("unfinished downloads", ", ".join(unfinished), mend)


def _unfinished(root: Path) -> list[str]:
    try:
        return sorted(path.name.replace("--", "/", 1) for path in (root / PARTIAL).iterdir() if path.is_dir())
    except OSError:
        return []


def _disk(folder: Path) -> Finding:
    usage = shutil.disk_usage(_existing(folder))
    found = f"{megabytes(usage.free)} free of {megabytes(usage.total)}"
    if usage.free < _LEAST_FREE_BYTES:
        return warning("disk", found, "`bramley ls` shows what each model takes, `bramley rm MODEL` frees it.")
    return ok("disk", found)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())
