"""A whole model on disk, as the rest of the server sees it. Knows no folder layout."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Format = Literal["safetensors", "gguf"]


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that can be served.

    path: a folder, or a .gguf file
    source: where it came from, for people
    created: when it was stored, in Unix seconds
    task: "generate", "embed", or "" where only its own files could tell
    """

    id: str
    path: Path
    num_bytes: int
    format: Format
    source: str
    created: int
    task: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def only_embeds(self) -> bool:
        """True when its files say, without being loaded, that it writes no text."""
        return self.task == "embed" or (self.path / "modules.json").is_file()
