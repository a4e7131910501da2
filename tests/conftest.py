"""What every test may use: the starter model where it is on disk, and a tiny random one that is always there."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from engine import blas

# A busy machine must not fail a property.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

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
def embedding_model() -> Path:
    """The catalogue's embedding model; scripts/test fetches it, a bare pytest run skips."""
    path = _ROOT / "models" / "all-minilm-l6-v2"
    if not (path / "model.safetensors").exists():
        pytest.skip("all-minilm-l6-v2 is not in models/: run scripts/test, or bramley pull all-minilm-l6-v2")
    return path


@pytest.fixture(scope="session")
def gemma_270m() -> Path:
    """Gemma 3 270M's GGUF file; scripts/fetch_gemma fetches it, and nothing else does."""
    path = _ROOT / "models" / "gemma-3-270m-q4_k_m.gguf"
    if not path.exists():
        pytest.skip("Gemma 3 270M is not in models/: run scripts/fetch_gemma")
    return path


@pytest.fixture(scope="session")
def tiny_llama() -> Path:
    """A random Llama of a few hundred kilobytes, in Hugging Face's layout."""
    return _ROOT / "tests" / "engine" / "architectures" / "fixtures" / "llama"


@pytest.fixture(scope="session")
def long_model(tmp_path_factory) -> Callable[[str], Path]:
    """A random model of tests/engine/architectures/fixtures by its name, with a context of 2,048 tokens."""

    def make(name: str) -> Path:
        path = tmp_path_factory.mktemp("models") / name
        shutil.copytree(_ROOT / "tests" / "engine" / "architectures" / "fixtures" / name, path)
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
        return path

    return make


@pytest.fixture(scope="session")
def packable_model(long_model) -> Callable[[str], Path]:
    """The same with heads of 32 numbers, which keys and values are quantised in, and random attention weights."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = long_model(name)
            _widen_heads(made[name], 32)
        return made[name]

    return make


def _widen_heads(path: Path, head_dim: int) -> None:
    import mlx.core as mx

    config = json.loads((path / "config.json").read_text())
    factor = head_dim // config["head_dim"]
    tensors, key = mx.load(str(path / "model.safetensors")), mx.random.key(0)
    for name, array in tensors.items():
        if ".self_attn." in name and not name.endswith("sinks"):
            inward = ".o_proj." in name
            shape = list(array.shape)
            shape[1 if inward and array.ndim == 2 else 0] *= 1 if inward and array.ndim == 1 else factor
            key, own = mx.random.split(key)
            tensors[name] = mx.random.normal(shape, key=own) * 0.2
    mx.save_safetensors(str(path / "model.safetensors"), tensors)
    (path / "config.json").write_text(json.dumps(config | {"head_dim": head_dim}))


@pytest.fixture(scope="session")
def readable(tmp_path_factory) -> Callable[[str], Path]:
    """A model of tests/engine/architectures/fixtures by its name, with a tokenizer: a token per printable character."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("readable") / name
            fixture = _ROOT / "tests" / "engine" / "architectures" / "fixtures" / name
            shutil.copytree(fixture, made[name], ignore=shutil.ignore_patterns("fixture.safetensors", "row.json"))
            _write_tokenizer(made[name])
        return made[name]

    return make


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    characters = [chr(code) for code in range(0x21, 0x7F)] + ["Ġ", "Ċ"]
    tokenizer = Tokenizer(models.BPE({each: index for index, each in enumerate(characters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
