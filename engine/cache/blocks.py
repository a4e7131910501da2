"""A run of tokens' keys and values in all layers, cut out of a slot and put into another. Knows no token ids."""

from collections.abc import Sequence

import mlx.core as mx

from engine.cache.layout import Content, Planes
from engine.cache.slots import Slot
from engine.native.kernels import Kernels

BLOCK_TOKENS = 64
_JOINED_BLOCKS = 16  # put together at once: bounds the copy that exists beside blocks and slot


def block_tokens(windows: Sequence[int | None]) -> int:
    """Tokens per block: few enough that the smallest ring still holds a complete one some tokens later."""
    return min([BLOCK_TOKENS, *(max(1, window // 2) for window in windows if window is not None)])


def cut(planes: Sequence[mx.array], kernels: Kernels | None = None) -> Content:
    """Copy the planes of some tokens, (1, heads, tokens, width) each, in the order of layers.

    kernels: the device's, or None
    """
    kinds: dict[tuple[int, int, mx.Dtype], int] = {}
    order = [kinds.setdefault((plane.shape[1], plane.shape[3], plane.dtype), len(kinds)) for plane in planes]
    members: list[Planes] = [[] for _ in kinds]
    for plane, kind in zip(planes, order, strict=True):
        members[kind].append(plane)
    stack = mx.concatenate if kernels is None else kernels.stack_planes
    return Content(tuple(stack(same) for same in members), tuple(order))


def put(contents: Sequence[Content], counts: Sequence[int], slot: Slot) -> None:
    """Store the first `counts[i]` tokens of each in an empty slot, one after the other."""
    if not slot.slab.layers:
        slot.length = sum(counts)
        return
    if contents and _are_uniform(slot, contents[0], sum(counts)):
        slot.slab.write_blocks(slot.index, [content.stacks[0] for content in contents], counts)
        slot.length = sum(counts)
        return
    for first in range(0, len(contents), _JOINED_BLOCKS):
        some = slice(first, first + _JOINED_BLOCKS)
        joined = _joined(contents[some], counts[some])
        _write(slot, joined, contents[0].order)
        slot.length += sum(counts[some])


def _are_uniform(slot: Slot, content: Content, num_tokens: int) -> bool:
    """True when all planes are alike and every layer has room for all tokens: a kernel can write them at once."""
    rings = [layer.window for layer in slot.slab.layers if layer.window is not None]
    return slot.slab.kernels is not None and len(content.stacks) == 1 and num_tokens <= min(rings, default=num_tokens)


def _joined(contents: Sequence[Content], counts: Sequence[int]) -> list[mx.array]:
    trimmed = [
        [stack[:, :, :count] for stack in content.stacks] for content, count in zip(contents, counts, strict=True)
    ]
    return [mx.concatenate([*parts], axis=2) if len(parts) > 1 else parts[0] for parts in zip(*trimmed, strict=True)]


def _write(slot: Slot, joined: Sequence[mx.array], order: Sequence[int]) -> None:
    taken = [0] * len(joined)
    planes = []
    for kind in order:
        planes.append(joined[kind][taken[kind] : taken[kind] + 1])
        taken[kind] += 1
    per_layer = len(order) // len(slot.slab.layers)
    for number, layer in enumerate(slot.slab.layers):
        layer.write_tokens(slot.index, slot.length, planes[number * per_layer : (number + 1) * per_layer])
