"""From a model's name to its files, for the commands: in the store, in its place on this machine, or fetched."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.settings import Settings
    from server.store.store import Store
    from server.store.stored_model import StoredModel


def store_of(settings: "Settings") -> "Store":
    """The store that the settings name."""
    from server.store.places import other_places
    from server.store.store import Store

    others = other_places(settings.lm_studio_folders, settings.ollama_folders)
    return Store(settings.models_dir.expanduser(), settings.hub_cache, others=others)


def model_here(name: str, store: "Store") -> "StoredModel":
    """The model, which may be a path, fetched first where it is not here. Raises StoreError."""
    from server.store.errors import ModelNotFound
    from server.store.local_source import LocalSource, local_path

    path = local_path(name)
    if path is not None:
        return LocalSource(path).in_place()
    try:
        return store.find(name)
    except ModelNotFound:
        return fetched(name, store)


def fetched(name: str, store: "Store") -> "StoredModel":
    """Pull the model, with bars or lines on the error stream. Raises StoreError."""
    from server.store.pull import pull
    from server.terminal.progress import progress_report

    with progress_report(name) as report:
        return pull(name, store, report)
