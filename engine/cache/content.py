"""The arrays of a block or a snapshot, of all layers together. Knows no tokens and no slots."""

from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class Content:
    """Some tokens' planes. Those of one shape are stacked: a model whose layers are alike has a single array.

    stacks: (planes, heads, tokens, width) each
    order: for every plane, layer by layer, the stack that holds it
    """

    stacks: tuple[mx.array, ...]
    order: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes in memory."""
        return sum(stack.nbytes for stack in self.stacks)
