"""Attention whose result is gated per dimension before the last projection (arXiv:2505.06708)."""

import mlx.core as mx

from engine.attention.attend import AttentionOptions
from engine.attention.batch import Batch
from engine.layers.attention import HeadSizes
from engine.layers.linear import Linear
from engine.layers.module import Module
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope


class GatedAttention(Module):
    """Causal attention; q_proj gives every head its query, then its gate.

    layer: its number among the layers that keep keys and values
    q_norm, k_norm: applied to every head before the rotation
    """

    def __init__(
        self, layer: int, sizes: HeadSizes, rope: Rope, q_norm: RMSNorm, k_norm: RMSNorm, *, bias: bool = False
    ) -> None:
        self.q_proj = Linear(sizes.hidden_size, 2 * sizes.num_heads * sizes.head_dim, bias=bias)
        self.k_proj = Linear(sizes.hidden_size, sizes.num_kv_heads * sizes.head_dim, bias=bias)
        self.v_proj = Linear(sizes.hidden_size, sizes.num_kv_heads * sizes.head_dim, bias=bias)
        self.o_proj = Linear(sizes.num_heads * sizes.head_dim, sizes.hidden_size, bias=bias)
        self.q_norm = q_norm
        self.k_norm = k_norm
        self._layer = layer
        self._sizes = sizes
        self._rope = rope

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        """x: (rows, length, hidden_size); returns the same shape."""
        sizes, shape = self._sizes, x.shape[:2]
        queries, gate = mx.split(self.q_proj(x).reshape(*shape, sizes.num_heads, -1), 2, axis=-1)
        queries = self.q_norm(queries).reshape(*shape, -1)
        keys = self.k_norm(self.k_proj(x).reshape(*shape, sizes.num_kv_heads, -1)).reshape(*shape, -1)
        rotation = self._rope.rotation(batch.planned_lengths)
        if rotation is None:
            queries, keys = self._rotated(queries, batch), self._rotated(keys, batch)
        attended = batch.attend(
            self._layer,
            queries,
            keys,
            self.v_proj(x),
            AttentionOptions(sizes.score_scale),
            head_dim=sizes.head_dim,
            rotation=rotation,
        )
        return self.o_proj(attended * mx.sigmoid(gate.reshape(*shape, -1)))

    def _rotated(self, x: mx.array, batch: Batch) -> mx.array:
        """Rows that rotate at different speeds, one after the other."""
        return self._rope.side_by_side(x, self._sizes.head_dim, batch.offsets, batch.planned_lengths)
