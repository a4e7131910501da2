"""Small whole models, and one damage of one of them, drawn from a seed. Knows file formats from outside."""

import gzip
import importlib.util
import json
import random
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

ROOT = Path(__file__).parent.parent.parent
_MODELS = ROOT / "tests" / "engine" / "architectures" / "fixtures"
_TEXTS = ROOT / "tests" / "engine" / "text" / "fixtures"
# A model and the tokenizer that is put beside it.
_PAIRS = (
    ("llama", "llama"),
    ("qwen2", "qwen2"),
    ("gpt2", "gpt2"),
    ("bert-classifier-2", "bert-uncased"),
    ("roberta", "roberta"),
    ("t5-encoder", "t5"),
    ("gemma3", "llama"),
    ("mixtral", "llama"),
)
_STRANGE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 3, 7, 255, 4096, 10_000_000, 1 << 24, 1 << 31, 1 << 40, 1 << 70, 1e30, -0.5, 1e-9),
    *("", "silu", "x", "gelu_new", "BF16", "U32", "I8", "BOOL", "../x", "\ud800", "a" * 5000),
    *([], {}, [0], [[1]], {"a": 1}, [None] * 3, {"type": "linear", "factor": 0}, ["full_attention"] * 2),
)


def sources(folder: Path) -> list[Path]:
    """Write the models to be damaged: folders of several families, and a GGUF."""
    for model, text in _PAIRS:
        target = folder / f"{model}-{text}"
        shutil.copytree(_MODELS / model, target)
        for path in (_TEXTS / text).iterdir():
            if path.name not in ("config.json", "reference.json"):
                shutil.copy(path, target / path.name)
        for name in ("fixture.safetensors", "row.json"):
            (target / name).unlink(missing_ok=True)
    target = folder / "tokenizer-json"
    shutil.copytree(_MODELS / "llama", target)
    _write_tokenizer(target)
    (folder / "gguf").mkdir()
    (folder / "gguf" / "tiny.gguf").write_bytes(_tiny_gguf())
    return sorted(folder.iterdir())


def write_mutant(originals: list[Path], folder: Path, seed: str) -> str:
    """One damaged copy; returns the damage in words."""
    draw = random.Random(seed)
    original = draw.choice(originals)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder)
    path = draw.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size))
    told = _damage(path, draw)
    return f"{original.name}/{path.name}: {told}"


def _damage(path: Path, draw: random.Random) -> str:
    ways = [_flip, _cut, _zero, _swap_numbers]
    if path.suffix == ".json":
        ways = [_change_json] * 6 + [_flip, _cut]
    elif path.suffix == ".safetensors":
        ways += [_change_header] * 4
    return draw.choice(ways)(path, draw)


def _flip(path: Path, draw: random.Random) -> str:
    data = bytearray(path.read_bytes())
    end = draw.choice((min(64, len(data)), min(4096, len(data)), len(data)))
    places = [draw.randrange(end) for _ in range(draw.choice((1, 1, 3, 20)))]
    for place in places:
        data[place] = draw.randrange(256)
    path.write_bytes(data)
    return f"bytes {places} drawn anew"


def _cut(path: Path, draw: random.Random) -> str:
    data = path.read_bytes()
    length = draw.randrange(len(data))
    path.write_bytes(data[:length])
    return f"cut at {length}"


def _zero(path: Path, draw: random.Random) -> str:
    data = bytearray(path.read_bytes())
    start = draw.randrange(len(data))
    stop = min(len(data), start + draw.choice((1, 8, 64, 4096)))
    data[start:stop] = bytes(stop - start) if draw.random() < 0.5 else b"\xff" * (stop - start)
    path.write_bytes(data)
    return f"bytes {start} to {stop} all the same"


def _swap_numbers(path: Path, draw: random.Random) -> str:
    data = bytearray(path.read_bytes())
    if len(data) < 8:
        return "nothing"
    place = draw.randrange(min(len(data), 4096) - 7)
    number = draw.choice((0, 1, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 64) - 1))
    data[place : place + 8] = struct.pack("<Q", number)
    path.write_bytes(data)
    return f"{number} at byte {place}"


def _change_json(path: Path, draw: random.Random) -> str:
    try:
        value = json.loads(path.read_text())
    except ValueError:
        return _flip(path, draw)
    told = _change(value, draw)
    path.write_text(json.dumps(value))
    return told


def _change_header(path: Path, draw: random.Random) -> str:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if draw.random() < 0.5:
        name = draw.choice([each for each in header if each != "__metadata__"])
        same_size = {"F32": ("U32", "I32"), "F16": ("BF16", "I16", "U16"), "BF16": ("F16", "I16")}
        kinds = same_size.get(header[name]["dtype"], ("U8",))
        header[name]["dtype"] = draw.choice(kinds)
        told = f"{name} is {header[name]['dtype']}"
    else:
        told = _change(header, draw)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    return told


def _change(value: Any, draw: random.Random) -> str:
    """Change one value somewhere inside, take it away, or write it under another key."""
    where: list[Any] = []
    while isinstance(value, dict | list) and value:
        parent, key = value, draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
        where.append(key)
        value = parent[key]
        if draw.random() < 0.5:
            break
    if not where:
        return "nothing"
    way = draw.random()
    if way < 0.15:
        del parent[key]
        return f"{where} is gone"
    if way < 0.25 and isinstance(parent, dict):
        parent[f"{key}x"] = parent.pop(key)
        return f"{where} is called otherwise"
    parent[key] = draw.choice(_STRANGE)
    return f"{where} is {str(parent[key])[:40]!a}"


def _write_tokenizer(folder: Path) -> None:
    """A tokenizer.json of bytes, with special tokens and a chat template."""
    vocabulary = {each: number for number, each in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    subwords = Tokenizer(models.BPE(vocab=vocabulary | {"he": 256}, merges=[("h", "e")]))
    subwords.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    subwords.decoder = decoders.ByteLevel()
    subwords.add_special_tokens(["<s>", "</s>", "<|im_end|>"])
    (folder / "tokenizer.json").write_text(subwords.to_str())
    template = "{% for m in messages %}{{ bos_token }}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}"
    settings = {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>", "lstrip": False},
        "additional_special_tokens": ["<|im_end|>"],
        "added_tokens_decoder": {"257": {"content": "<s>", "special": True}},
        "chat_template": template,
        "model_max_length": 2048,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _tiny_gguf() -> bytes:
    """The tests' own tiny llama, with the vocabulary of one of the stored fixtures."""
    place = ROOT / "tests" / "engine" / "checkpoint" / "conftest.py"
    spec = importlib.util.spec_from_file_location("gguf_of_tests", place)
    assert spec is not None
    assert spec.loader is not None
    tests = importlib.util.module_from_spec(spec)
    sys.modules["gguf_of_tests"] = tests
    spec.loader.exec_module(tests)
    file = tests.tiny_llama_gguf()
    stored = json.loads(gzip.decompress((_TEXTS / "gguf-vocabularies.json.gz").read_bytes()))
    metadata = next(each for each in stored["vocabularies"] if each["name"] == "llama-bpe")["metadata"]
    kinds = {bool: tests.BOOL, int: tests.U32, str: tests.STRING}
    for key, value in metadata.items():
        if isinstance(value, list):
            inner = tests.STRING if isinstance(value[0], str) else tests.I32
            file.metadata[key] = (tests.ARRAY, (inner, value))
        else:
            file.metadata[key] = (kinds[type(value)], value)
    return bytes(file.encode())
