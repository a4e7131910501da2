"""Self-attention with grouped key heads and rotary positions."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from engine.attention.attend import AttentionOptions
from engine.attention.batch import Batch
from engine.layers.linear import FusedProjections, Linear, Norm, ResidualBranch
from engine.layers.norm import RMSNorm, UnscaledRMSNorm
from engine.layers.position import PositionScaling
from engine.layers.rope import Rope


@dataclass(frozen=True, slots=True)
class HeadSizes:
    """Sizes of one attention layer.

    scale: factor on the scores; None is 1 / sqrt(head_dim)
    """

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float | None = None

    @property
    def score_scale(self) -> float:
        """Factor on the scores."""
        return self.head_dim**-0.5 if self.scale is None else self.scale


class SelfAttention(ResidualBranch):
    """Causal attention of one decoder layer.

    layer: its number, which finds its keys and values in the cache
    rope: None leaves positions out
    bias, output_bias: of the projections to queries, keys and values, and of the one back
    q_norm, k_norm: applied to every head before the rotation
    softcap: see AttentionOptions
    scaling: of queries by their positions
    """

    def __init__(
        self,
        layer: int,
        sizes: HeadSizes,
        rope: Rope | None,
        *,
        bias: bool = False,
        output_bias: bool = False,
        q_norm: Callable[[mx.array], mx.array] | None = None,
        k_norm: Callable[[mx.array], mx.array] | None = None,
        softcap: float | None = None,
        scaling: PositionScaling | None = None,
    ) -> None:
        self.q_proj = Linear(sizes.hidden_size, sizes.num_heads * sizes.head_dim, bias=bias)
        self.k_proj = Linear(sizes.hidden_size, sizes.num_kv_heads * sizes.head_dim, bias=bias)
        self.v_proj = Linear(sizes.hidden_size, sizes.num_kv_heads * sizes.head_dim, bias=bias)
        self.o_proj = Linear(sizes.num_heads * sizes.head_dim, sizes.hidden_size, bias=output_bias)
        if q_norm is not None and k_norm is not None:
            self.q_norm = q_norm
            self.k_norm = k_norm
        self._projections = FusedProjections(self.q_proj, self.k_proj, self.v_proj)
        self._output = FusedProjections(self.o_proj)
        self._normed = q_norm is not None
        self._layer = layer
        self._sizes = sizes
        self._rope = rope
        self._scaling = scaling
        self._options = AttentionOptions(sizes.score_scale, softcap=softcap)

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        """x: (rows, length, hidden_size); returns the same shape."""
        return self.o_proj(self.attended(x, batch))

    def add_to(self, x: mx.array, norm: Norm, batch: Batch) -> mx.array:
        """x + self(norm(x), batch)."""
        return self._output.add_to(x, self.attended(x, batch, norm))

    def attended(self, x: mx.array, batch: Batch, norm: Norm | None = None) -> mx.array:
        """The heads' results for norm(x), side by side: (rows, length, num_heads * head_dim)."""
        queries, keys, values = self.heads(x, norm)
        if self._scaling is not None:
            queries = self._scaling.apply(queries, batch)
        rotation = None if self._rope is None else self._rope.rotation(batch.planned_lengths)
        if self._rope is not None and rotation is None:
            queries, keys = self._rotated(queries, batch), self._rotated(keys, batch)
        head_dim = self._sizes.head_dim
        return batch.attend(self._layer, queries, keys, values, self.options, head_dim=head_dim, rotation=rotation)

    def heads(self, x: mx.array, norm: Norm | None) -> tuple[mx.array, mx.array, mx.array]:
        """Queries (rows, length, num_heads * head_dim), keys and values (..., num_kv_heads * head_dim), not rotated."""
        queries, keys, values = self._projections.project(x, norm)
        if self._normed:
            queries, keys = self._by_head(self.q_norm, queries), self._by_head(self.k_norm, keys)
        return queries, keys, values

    def _by_head(self, norm: Norm, x: mx.array) -> mx.array:
        return norm(x.reshape(*x.shape[:2], -1, self._sizes.head_dim)).reshape(x.shape)

    def _rotated(self, x: mx.array, batch: Batch) -> mx.array:
        """Rows that rotate at different speeds, one after the other."""
        assert self._rope is not None  # asked of rotated layers alone
        return self._rope.side_by_side(x, self._sizes.head_dim, batch.offsets, batch.planned_lengths)

    @property
    def options(self) -> AttentionOptions:
        """Scale, softcap and sinks of the scores."""
        return self._options


class NormedAttention(SelfAttention):
    """Self-attention whose queries, keys and values are normed by head, values without weights.

    keys_are_values: values are the keys before norm and rotation
    """

    def __init__(
        self, layer: int, sizes: HeadSizes, rope: Rope, eps: float, *, bias: bool, keys_are_values: bool = False
    ) -> None:
        norms = RMSNorm(sizes.head_dim, eps), RMSNorm(sizes.head_dim, eps)
        super().__init__(layer, sizes, rope, bias=bias, output_bias=bias, q_norm=norms[0], k_norm=norms[1])
        self.v_norm = UnscaledRMSNorm(sizes.head_dim, eps)
        if keys_are_values:
            del self.v_proj
            self._projections = FusedProjections(self.q_proj, self.k_proj)

    def heads(self, x: mx.array, norm: Norm | None) -> tuple[mx.array, mx.array, mx.array]:
        """Queries (rows, length, num_heads * head_dim), keys and values (..., num_kv_heads * head_dim), not rotated."""
        queries, keys, *rest = self._projections.project(x, norm)
        values = rest[0] if rest else keys
        return self._by_head(self.q_norm, queries), self._by_head(self.k_norm, keys), self._by_head(self.v_norm, values)


class ReadingAttention(SelfAttention):
    """Attention that has queries alone, and attends to the keys and values of an earlier layer.

    layer: the number of that layer
    """

    def __init__(self, layer: int, sizes: HeadSizes, rope: Rope, eps: float, *, bias: bool) -> None:
        norm = RMSNorm(sizes.head_dim, eps)
        super().__init__(layer, sizes, rope, bias=bias, output_bias=bias, q_norm=norm, k_norm=norm)
        del self.k_proj, self.v_proj, self.k_norm
        self._projections = FusedProjections(self.q_proj)

    def attended(self, x: mx.array, batch: Batch, norm: Norm | None = None) -> mx.array:
        """The heads' results for norm(x), side by side: (rows, length, num_heads * head_dim)."""
        assert self._rope is not None  # it is always given
        (queries,) = self._projections.project(x, norm)
        queries = self._by_head(self.q_norm, queries)
        rotation = self._rope.rotation(batch.planned_lengths)
        if rotation is None:
            queries = self._rotated(queries, batch)
        head_dim = self._sizes.head_dim
        return batch.attend_stored(self._layer, queries, self.options, head_dim=head_dim, rotation=rotation)
