"""Tiny random models that can read: the fixtures of the parity tests with a tokenizer of 96 characters."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from engine.checkpoint.checkpoint import open_checkpoint
from engine.compression.texts import Text
from engine.device import prepare_device
from engine.model import build_model

FIXTURES = Path(__file__).parent.parent / "parity" / "fixtures"
CHARACTERS = [chr(code) for code in range(0x21, 0x7F)] + ["Ġ", "Ċ"]


@pytest.fixture(scope="session")
def readable(tmp_path_factory) -> Callable[[str], Path]:
    """A model of tests/parity/fixtures by its name, with a tokenizer: a token per printable character."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("readable") / name
            shutil.copytree(
                FIXTURES / name, made[name], ignore=shutil.ignore_patterns("fixture.safetensors", "row.json")
            )
            write_tokenizer(made[name])
        return made[name]

    return make


def write_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE({each: index for index, each in enumerate(CHARACTERS)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="session")
def text() -> Text:
    words = "The river runs past the old mill, and nobody counts the boats; 12 of them lay there in 1890.\n"
    return Text("river.txt", words * 4)


@pytest.fixture(scope="session")
def load():
    return lambda path: build_model(open_checkpoint(path), prepare_device("off"))
