"""The interface of the sources that models come from. Implemented by wheel_source, hub_source and local_source."""

from pathlib import Path
from typing import NamedTuple, Protocol

from engine.progress import Report
from server.store.manifest import FileRecord
from server.store.model_id import ModelId
from server.store.staging import FreeBytes, Staging


class Delivery(NamedTuple):
    """A folder that holds exactly the model's verified files, and what is known of each by name."""

    folder: Path
    files: dict[str, FileRecord]


class Source(Protocol):
    """A place that can give one model. Its attributes become the manifest's."""

    @property
    def model_id(self) -> ModelId: ...
    @property
    def description(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def licence(self) -> str: ...

    def deliver(self, staging: Staging, report: Report, free_bytes: FreeBytes) -> Delivery:
        """Put the model's files into the staging folder and verify them. Raises StoreError and OSError."""
        ...
