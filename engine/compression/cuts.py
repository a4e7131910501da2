"""The parts of a model that pruning keeps, applied to its matrices. Knows arrays and names; measures nothing."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import mlx.core as mx

from engine.conversion.plan import Matrix

_LAYER = re.compile(r"((?:^|\.)(?:layers|layer|h|block)\.)(\d+)(?=\.)")
# Modules whose rows (outputs) and columns (inputs) belong to the neurons, the heads, or the groups of heads.
_ROWS = {"gate_proj": "neurons", "up_proj": "neurons", "q_proj": "heads", "k_proj": "groups", "v_proj": "groups"}
_COLUMNS = {"down_proj": "neurons", "o_proj": "heads"}


@dataclass(frozen=True, slots=True)
class Channels:
    """Kept runs of channels: the numbers of runs of `size` channels each."""

    kept: tuple[int, ...]
    size: int

    @property
    def num_channels(self) -> int:
        """Channels that stay."""
        return len(self.kept) * self.size

    def indices(self, unit: int = 1) -> mx.array:
        """Numbers of the kept channels, counted in units of so many. `size` is a multiple of the unit."""
        per_run = self.size // unit
        runs = mx.array(self.kept)[:, None] * per_run
        return (runs + mx.arange(per_run)[None]).reshape(-1)


@dataclass(frozen=True)
class Cut:
    """The kept parts of a model.

    layers: numbers of the kept layers, in order
    channels: per kept layer, by "neurons", "heads" (of queries) and "groups" (of keys and values); {} where all stay
    """

    layers: tuple[int, ...]
    channels: Sequence[Mapping[str, Channels]] = field(default_factory=tuple)

    def new_name(self, name: str) -> str | None:
        """A tensor's name in the pruned model; None when its layer is left out."""
        match = _LAYER.search(name)
        if match is None:
            return name
        old = int(match[2])
        if old not in self.layers:
            return None
        return f"{name[: match.start(2)]}{self.layers.index(old)}{name[match.end(2) :]}"

    def shaped(self, matrix: Matrix) -> Matrix | None:
        """The matrix as it will be, under its new name."""
        name = self.new_name(matrix.name)
        if name is None:
            return None
        axis, channels = self._of(matrix)
        shape = list(matrix.shape)
        if channels is not None:
            shape[axis] = channels.num_channels
        return replace(matrix, name=name, shape=tuple(shape))

    def apply(self, matrix: Matrix, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """The arrays of what stays of a matrix, quantised or dense; nothing is computed anew."""
        axis, channels = self._of(matrix)
        if channels is None:
            return dict(arrays)
        if axis == 0:
            rows = channels.indices()
            return {part: array[rows] for part, array in arrays.items()}
        if matrix.quantization is None:
            return {part: array[:, channels.indices()] for part, array in arrays.items()}
        groups = channels.indices(matrix.quantization.group_size)
        num_groups = matrix.shape[1] // matrix.quantization.group_size
        return {part: _columns(array, num_groups, groups) for part, array in arrays.items()}

    def _of(self, matrix: Matrix) -> tuple[int, Channels | None]:
        if matrix.layer is None or matrix.layer not in self.layers or not self.channels:
            return 0, None
        kept = self.channels[self.layers.index(matrix.layer)]
        module, _, kind = matrix.own.rpartition(".") if matrix.module is None else (matrix.own, "", "weight")
        last = module.rpartition(".")[2]
        if last in _ROWS:
            return 0, kept.get(_ROWS[last])
        if last in _COLUMNS and kind == "weight":
            return 1, kept.get(_COLUMNS[last])
        return 0, None


def _columns(array: mx.array, num_groups: int, groups: mx.array) -> mx.array:
    """Some groups of columns of a quantised weight, or of its scales or biases."""
    rows = array.shape[0]
    by_group = array.reshape(rows, num_groups, -1)
    return by_group[:, groups].reshape(rows, -1)


def squared_columns(values: mx.array) -> mx.array:
    """The squared length of each column. values: (rows, columns) floats."""
    return mx.sum(mx.square(values.astype(mx.float32)), axis=0)
