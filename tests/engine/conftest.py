"""A short text that the tiny random models of `readable` can read."""

import pytest

from engine.checkpoint.checkpoint import open_checkpoint
from engine.device import prepare_device
from engine.evaluation.texts import Text
from engine.model import build_model


@pytest.fixture(scope="session")
def text() -> Text:
    words = "The river runs past the old mill, and nobody counts the boats; 12 of them lay there in 1890.\n"
    return Text("river.txt", words * 4)


@pytest.fixture(scope="session")
def load():
    return lambda path: build_model(open_checkpoint(path), prepare_device("off"))
