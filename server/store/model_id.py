"""The names of models: one strict grammar, and the name of the folder that belongs to one. Opens nothing."""

import re
from dataclasses import dataclass

from server.store.errors import ModelIdInvalid

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_MODEL_ID = re.compile(rf"(?:(?P<organisation>{_PART})/)?(?P<name>{_PART})(?::(?P<variant>{_PART}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ModelId:
    """A model's name in its parts; organisation and variant may be empty.

    variant: tells apart the GGUF files of one repository ("Q4_0")
    """

    organisation: str
    name: str
    variant: str = ""

    def __str__(self) -> str:
        return self.repository + (f":{self.variant}" if self.variant else "")

    @property
    def repository(self) -> str:
        """The name of the hub's repository."""
        return f"{self.organisation}/{self.name}" if self.organisation else self.name

    @property
    def folder_name(self) -> str:
        """A single path component. No part holds a double hyphen, so that different names have different folders."""
        return "--".join(part for part in (self.organisation, self.name, self.variant) if part)


def parse_model_id(text: str) -> ModelId:
    """Read `name`, `organisation/name` or `organisation/name:variant`. Raises ModelIdInvalid."""
    match = _MODEL_ID.fullmatch(text)
    if match is None or ".." in text or "--" in text:
        raise ModelIdInvalid(text)
    organisation, name, variant = (part or "" for part in match.groups())
    if variant and not organisation:
        raise ModelIdInvalid(text)
    return ModelId(organisation, name, variant)


def model_id_of_file(name: str) -> ModelId:
    """The nearest valid name for a model in a folder or file of this name, which may hold anything."""
    fit = re.sub(r"[^A-Za-z0-9._-]+", "-", name, flags=re.ASCII)
    single = re.sub(r"([.-])[.-]+", r"\1", fit).strip(".-")
    return ModelId("", single[:96].rstrip(".-") or "model")
