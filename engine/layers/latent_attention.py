"""Attention over latent keys (DeepSeek-AI 2024, arXiv:2405.04434), in the form that keeps latents alone."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import mlx.core as mx

from engine.attention.attend import AttentionOptions
from engine.attention.batch import Batch
from engine.layers.linear import Linear, Weight
from engine.layers.module import Module
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope

_LATENT_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class LatentSizes:
    """Sizes of one attention layer.

    rank, query_rank: of the latents of keys and values, and of queries; None where queries have no latent
    content_dim, rope_dim: dimensions of a head's query and key without and with positions; value_dim: of its value
    scale: factor on the scores
    """

    hidden_size: int
    num_heads: int
    rank: int
    query_rank: int | None
    content_dim: int
    rope_dim: int
    value_dim: int
    scale: float


class HeadwiseLinear(Weight):
    """y[head] = x[head] @ weight[head].T; weight: (num_heads, output_size, input_size)."""

    def __init__(self, num_heads: int, input_size: int, output_size: int) -> None:
        super().__init__(num_heads, output_size, input_size)
        self._heads = mx.arange(num_heads)

    def __call__(self, x: mx.array) -> mx.array:
        """(..., num_heads, input_size) to (..., num_heads, output_size)."""
        by_token = x.reshape(-1, *x.shape[-2:])
        if self._panels is None:
            return self._by_head(by_token.swapaxes(0, 1)).swapaxes(0, 1).reshape(*x.shape[:-1], -1)
        chosen = mx.broadcast_to(self._heads, by_token.shape[:2])
        return self.multiply_chosen(by_token[:, :, None], chosen).reshape(*x.shape[:-1], -1)

    def _by_head(self, x: mx.array) -> mx.array:
        """(num_heads, tokens, input_size) to (num_heads, tokens, output_size)."""
        q = self._quantization
        if q is None:
            return x @ self.weight.swapaxes(-1, -2)
        return mx.quantized_matmul(
            x, self.weight, self.scales, self.biases, group_size=q.group_size, bits=q.bits, mode=q.mode
        )


class LatentAttention(Module):
    """Causal attention of all heads to one latent per token.

    A key is its rotated part, which all heads share, and the latent; the value is the latent. What would expand a
    latent into a head's key is applied to the head's query instead, and what would expand it into a value to the
    result: scores and results are the same, and the cache holds `rope_dim + rank` numbers per token.

    layer: its number, which finds its keys in the cache
    bias: of the projections from and to the hidden size
    """

    def __init__(self, layer: int, sizes: LatentSizes, rope: Rope, *, bias: bool) -> None:
        head_dim = sizes.content_dim + sizes.rope_dim
        if sizes.query_rank is None:
            self.q_proj = Linear(sizes.hidden_size, sizes.num_heads * head_dim)
        else:
            self.q_a_proj = Linear(sizes.hidden_size, sizes.query_rank, bias=bias)
            self.q_a_layernorm = RMSNorm(sizes.query_rank, _LATENT_EPS)
            self.q_b_proj = Linear(sizes.query_rank, sizes.num_heads * head_dim)
        self.kv_a_proj_with_mqa = Linear(sizes.hidden_size, sizes.rank + sizes.rope_dim, bias=bias)
        self.kv_a_layernorm = RMSNorm(sizes.rank, _LATENT_EPS)
        self.embed_q = HeadwiseLinear(sizes.num_heads, sizes.content_dim, sizes.rank)
        self.unembed_out = HeadwiseLinear(sizes.num_heads, sizes.rank, sizes.value_dim)
        self.o_proj = Linear(sizes.num_heads * sizes.value_dim, sizes.hidden_size, bias=bias)
        self._layer = layer
        self._sizes = sizes
        self._rope = rope
        self._options = AttentionOptions(sizes.scale, value_dim=sizes.rank)

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        """x: (rows, length, hidden_size); returns the same shape."""
        sizes, shape = self._sizes, x.shape[:2]
        head_dim, rotation = sizes.rope_dim + sizes.rank, self._rope.rotation(batch.planned_lengths)
        queries, keys = self._queries(x), self._keys(x)
        if rotation is None:
            rows = batch.offsets, batch.planned_lengths
            queries = self._rope.side_by_side(queries, head_dim, *rows)
            keys = self._rope.side_by_side(keys, head_dim, *rows)
        attended = batch.attend(self._layer, queries, keys, None, self._options, head_dim=head_dim, rotation=rotation)
        values = self.unembed_out(attended.reshape(*shape, sizes.num_heads, sizes.rank))
        return self.o_proj(values.reshape(*shape, -1))

    def _queries(self, x: mx.array) -> mx.array:
        """(rows, length, num_heads * (rope_dim + rank)), not rotated."""
        sizes = self._sizes
        has_latent = sizes.query_rank is not None
        queries = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))) if has_latent else self.q_proj(x)
        by_head = queries.reshape(*x.shape[:2], sizes.num_heads, -1)
        content, positional = mx.split(by_head, [sizes.content_dim], axis=-1)
        return mx.concatenate([positional, self.embed_q(content)], axis=-1).reshape(*x.shape[:2], -1)

    def _keys(self, x: mx.array) -> mx.array:
        """(rows, length, rope_dim + rank), not rotated."""
        latent, positional = mx.split(self.kv_a_proj_with_mqa(x), [self._sizes.rank], axis=-1)
        return mx.concatenate([positional, self.kv_a_layernorm(latent)], axis=-1)


def renamed_expansion(name: str) -> str:
    """Our name of `kv_b_proj`, which expands a latent: the projection of values speaks for both of its parts."""
    return name.replace(".kv_b_proj.", ".unembed_out.")


def parted_expansions(tensors: Iterable[tuple[str, mx.array]], sizes: LatentSizes) -> Iterator[tuple[str, mx.array]]:
    """`kv_b_proj` in its two parts, keys turned round; other tensors, such as those of newer MLX folders, pass.

    Quantised rows stay as they are in the part of values; the part of keys is expanded, as its columns become rows.
    """
    found: dict[str, dict[str, mx.array]] = {}
    for name, array in tensors:
        prefix, _, kind = name.partition(".kv_b_proj.")
        if not kind:
            yield name, array
        elif kind == "weight" and array.dtype != mx.uint32:
            yield from _parts(prefix, array, array, sizes)
        else:
            found.setdefault(prefix, {})[kind] = array
    for prefix, arrays in found.items():
        yield from _parts(prefix, _expanded(arrays, sizes.rank), arrays.pop("weight"), sizes)
        for kind, array in arrays.items():
            yield f"{prefix}.unembed_out.{kind}", _by_head(array, sizes)[:, sizes.content_dim :]


def _parts(prefix: str, dense: mx.array, stored: mx.array, sizes: LatentSizes) -> Iterator[tuple[str, mx.array]]:
    yield f"{prefix}.embed_q.weight", _by_head(dense, sizes)[:, : sizes.content_dim].swapaxes(-1, -2)
    yield f"{prefix}.unembed_out.weight", _by_head(stored, sizes)[:, sizes.content_dim :]


def _by_head(rows: mx.array, sizes: LatentSizes) -> mx.array:
    return rows.reshape(sizes.num_heads, sizes.content_dim + sizes.value_dim, -1)


def _expanded(arrays: dict[str, mx.array], columns: int) -> mx.array:
    """The values of a quantised matrix; its numbers follow from the shapes."""
    weight, scales, biases = arrays["weight"], arrays["scales"], arrays.get("biases")
    bits, group_size = weight.shape[-1] * 32 // columns, columns // scales.shape[-1]
    if biases is not None:
        return mx.dequantize(weight, scales, biases, group_size=group_size, bits=bits)
    mode = {(16, 4): "nvfp4", (32, 4): "mxfp4", (32, 8): "mxfp8"}[group_size, bits]
    return mx.dequantize(weight, scales, group_size=group_size, bits=bits, mode=mode, dtype=mx.float32)
