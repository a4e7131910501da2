"""What every test may use: the starter model where it is on disk, and a tiny random one that is always there."""

from pathlib import Path

import pytest

from engine import blas

blas.preload()  # before any test imports mlx, as the worker does

_ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def starter_model() -> Path:
    """The starter model's GGUF file; scripts/test fetches it, a bare pytest run skips."""
    found = sorted((_ROOT / "models").glob("**/SmolLM2-135M-Instruct.Q4_1.gguf"))
    if not found:
        pytest.skip("the starter model is not in models/: run scripts/test, or bramley pull smollm2-135m")
    return found[0]


@pytest.fixture(scope="session")
def tiny_llama() -> Path:
    """A random Llama of a few hundred kilobytes, in Hugging Face's layout."""
    return _ROOT / "tests" / "parity" / "fixtures" / "llama"
