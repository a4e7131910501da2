"""Model files made byte by byte from the formats' definitions, so that the tests do not lean on the code they test."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
LAYOUTS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}
TYPE_NUMBERS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 8, "Q4_K": 12, "Q6_K": 14, "BF16": 30}
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, VOCABULARY, LAYERS = 64, 4, 2, 16, 96, 48, 2


@dataclass(frozen=True)
class GGUFTensor:
    """shape: row-major; data: as the type stores it."""

    name: str
    shape: tuple[int, ...]
    kind: str | int
    data: bytes


@dataclass
class GGUFFile:
    """A GGUF to be written. Counts, offsets and dimensions may be made to lie."""

    metadata: dict[str, tuple[int, Any]]
    tensors: list[GGUFTensor]
    magic: bytes = b"GGUF"
    version: int = 3
    alignment: int = 32
    num_tensors: int | None = None
    num_keys: int | None = None
    offsets: dict[str, int] = field(default_factory=dict)
    dimensions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    extra_metadata: bytes = b""

    def encode(self) -> bytes:
        """The whole file."""
        head = self.header()
        head += bytes(-len(head) % self.alignment)
        return head + b"".join(tensor.data + bytes(-len(tensor.data) % self.alignment) for tensor in self.tensors)

    def header(self) -> bytes:
        """Everything before the data."""
        num_tensors = len(self.tensors) if self.num_tensors is None else self.num_tensors
        num_keys = len(self.metadata) if self.num_keys is None else self.num_keys
        head = self.magic + struct.pack("<IQQ", self.version, num_tensors, num_keys)
        for key, (kind, value) in self.metadata.items():
            head += text(key) + struct.pack("<I", kind) + encoded(kind, value)
        return head + self.extra_metadata + self._tensor_infos()

    def _tensor_infos(self) -> bytes:
        infos, offset = b"", 0
        for tensor in self.tensors:
            dimensions = self.dimensions.get(tensor.name, tensor.shape[::-1])
            kind = TYPE_NUMBERS[tensor.kind] if isinstance(tensor.kind, str) else tensor.kind
            infos += text(tensor.name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
            infos += struct.pack("<IQ", kind, self.offsets.get(tensor.name, offset))
            offset += len(tensor.data) + -len(tensor.data) % self.alignment
        return infos


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def encoded(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return text(value)
    if kind == ARRAY:
        inner, values = value
        return struct.pack("<IQ", inner, len(values)) + b"".join(encoded(inner, each) for each in values)
    return struct.pack(f"<{LAYOUTS[kind]}", value)


def random_blocks(kind: str, rows: int, columns: int, random: np.random.Generator) -> bytes:
    """Random blocks with scales of a size that weights have."""
    count = rows * columns // 32
    scales = random.uniform(-0.1, 0.1, (count, 2)).astype("<f2").view(np.uint8)
    body = random.integers(0, 256, (count, 32 if kind == "Q8_0" else 16), dtype=np.uint8)
    return np.concatenate([scales if kind == "Q4_1" else scales[:, :2], body], axis=1).tobytes()


def random_tensor(name: str, shape: tuple[int, ...], kind: str, random: np.random.Generator) -> GGUFTensor:
    if kind.startswith("Q"):
        return GGUFTensor(name, shape, kind, random_blocks(kind, *shape, random))
    values = random.standard_normal(shape).astype("<f4")
    if kind == "BF16":
        return GGUFTensor(name, shape, kind, values.view("<u4").__rshift__(16).astype("<u2").tobytes())
    return GGUFTensor(name, shape, kind, values.astype({"F32": "<f4", "F16": "<f2"}[kind]).tobytes())


def tiny_llama_gguf(kind: str = "Q4_1", embedding_kind: str = "Q8_0", seed: int = 1) -> GGUFFile:
    """Two layers with random weights, tied head, as llama.cpp's converter would lay them out."""
    random = np.random.default_rng(seed)
    matrices = {
        "attn_q": (HEADS * HEAD_DIM, HIDDEN),
        "attn_k": (KV_HEADS * HEAD_DIM, HIDDEN),
        "attn_v": (KV_HEADS * HEAD_DIM, HIDDEN),
        "attn_output": (HIDDEN, HEADS * HEAD_DIM),
        "ffn_gate": (INTERMEDIATE, HIDDEN),
        "ffn_up": (INTERMEDIATE, HIDDEN),
        "ffn_down": (HIDDEN, INTERMEDIATE),
    }
    tensors = [random_tensor("token_embd.weight", (VOCABULARY, HIDDEN), embedding_kind, random)]
    for layer in range(LAYERS):
        norms = {"attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,)}
        tensors += [random_tensor(f"blk.{layer}.{name}.weight", shape, "F32", random) for name, shape in norms.items()]
        tensors += [
            random_tensor(f"blk.{layer}.{name}.weight", shape, kind, random) for name, shape in matrices.items()
        ]
    tensors.append(random_tensor("output_norm.weight", (HIDDEN,), "F32", random))
    return GGUFFile(tiny_llama_metadata(), tensors)


def tiny_llama_metadata() -> dict[str, tuple[int, Any]]:
    return {
        "general.architecture": (STRING, "llama"),
        "llama.block_count": (U32, LAYERS),
        "llama.context_length": (U32, 128),
        "llama.embedding_length": (U32, HIDDEN),
        "llama.feed_forward_length": (U32, INTERMEDIATE),
        "llama.attention.head_count": (U32, HEADS),
        "llama.attention.head_count_kv": (U32, KV_HEADS),
        "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
        "llama.rope.freq_base": (F32, 10_000.0),
        "llama.rope.dimension_count": (U32, HEAD_DIM),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, [f"token{i}" for i in range(VOCABULARY)])),
        "tokenizer.ggml.bos_token_id": (U32, 1),
        "tokenizer.ggml.eos_token_id": (U32, 2),
    }


@pytest.fixture(scope="session")
def gguf() -> Callable[..., GGUFFile]:
    """Makes a tiny llama GGUF: gguf(kind, embedding_kind, seed)."""
    return tiny_llama_gguf


@pytest.fixture(scope="session")
def gguf_tensor() -> Callable[..., GGUFTensor]:
    """Makes one tensor with random data: gguf_tensor(name, shape, kind)."""
    return lambda name, shape, kind: random_tensor(name, shape, kind, np.random.default_rng(7))


@pytest.fixture(scope="session")
def encode_safetensors() -> Callable[..., bytes]:
    """A safetensors file: encode_safetensors(header, data, header_bytes); header_bytes may lie."""

    def encode(header: dict[str, Any] | bytes, data: bytes, header_bytes: int | None = None) -> bytes:
        body = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(body) if header_bytes is None else header_bytes) + body + data

    return encode


@pytest.fixture(scope="session")
def write_folder() -> Callable[..., Path]:
    """Writes a model folder: write_folder(path, {"model.safetensors": bytes}, config)."""

    def write(path: Path, files: dict[str, bytes], config: dict[str, Any] | None = None) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(json.dumps({"model_type": "llama"} | (config or {})))
        for name, content in files.items():
            (path / name).write_bytes(content)
        return path

    return write
