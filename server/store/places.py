"""The other programs' places that models are found in, in their order. Knows no settings."""

from collections.abc import Sequence
from pathlib import Path

from server.store.lm_studio import LMStudio
from server.store.ollama import Ollama
from server.store.store import OtherPlace


def other_places(lm_studio: Sequence[Path], ollama: Sequence[Path]) -> list[OtherPlace]:
    """Views of the folders where LM Studio and Ollama keep models; none of them need exist."""
    return [LMStudio(lm_studio), Ollama(ollama)]
