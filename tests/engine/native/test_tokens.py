"""Tokens on their way between slots and blocks, and slots whose memory nothing has written to."""

import mlx.core as mx
import numpy as np
import pytest

from engine.engine import Engine
from engine.settings import EngineSettings

SIZES = [(1, 1, 8), (3, 5, 16), (2, 64, 64)]  # heads, tokens, width


def planes_of(number: int, slots: int, heads: int, places: int, width: int, dtype=mx.float32) -> list[mx.array]:
    random = np.random.default_rng(number)
    return [mx.array(random.standard_normal((slots, heads, places, width))).astype(dtype) for _ in range(number)]


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16], ids=["float32", "float16"])
@pytest.mark.parametrize(("heads", "tokens", "width"), SIZES)
def test_stacked_planes_are_the_planes(kernels, heads, tokens, width, dtype):
    planes = planes_of(6, 3, heads, tokens + 7, width, dtype)
    spans = [plane[1:2, :, 4 : 4 + tokens] for plane in planes]
    turned = [plane.swapaxes(1, 2)[1:2, :tokens, :heads].swapaxes(1, 2) for plane in planes]  # tokens lie apart
    for parts in (spans, turned):
        assert mx.array_equal(kernels.stack_planes(parts), mx.concatenate(parts, axis=0))


@pytest.mark.parametrize(("heads", "tokens", "width"), SIZES)
def test_written_blocks_stand_one_after_the_other(kernels, heads, tokens, width):
    planes = planes_of(4, 3, heads, 3 * tokens + 5, width)
    expected = [mx.array(plane) for plane in planes]
    blocks = [mx.random.normal((4, heads, tokens, width)) for _ in range(3)]
    counts, place = [tokens, tokens, tokens // 2], 2
    for number, plane in enumerate(expected):
        at = place
        for block, count in zip(blocks, counts, strict=True):
            plane[1, :, at : at + count] = block[number, :, :count]
            at += count
    mx.eval(expected, planes, blocks)
    for written, plane in zip(kernels.write_blocks(planes, blocks, counts, 1, place), expected, strict=True):
        assert mx.array_equal(written, plane)


def test_planes_that_somebody_still_reads_are_copied(kernels):
    planes = planes_of(2, 1, 1, 4, 8)
    before = [np.array(plane) for plane in planes]
    mx.eval(kernels.write_blocks(planes, [mx.ones((2, 1, 4, 8))], [4], 0, 0))
    for plane, old in zip(planes, before, strict=True):
        assert np.array_equal(plane, old)


@pytest.mark.parametrize(
    ("blocks", "counts", "slot", "place"),
    [
        ([(2, 1, 4, 8)], [5], 0, 0),
        ([(2, 1, 4, 8)], [4], 1, 0),
        ([(2, 1, 4, 8)], [4], 0, 3),
        ([(3, 1, 4, 8)], [4], 0, 0),
        ([(2, 1, 4, 8)], [-1], 0, 0),
    ],
)
def test_what_does_not_fit_is_refused(kernels, blocks, counts, slot, place):
    planes = planes_of(2, 1, 1, 6, 8)
    with pytest.raises(ValueError, match="must"):
        kernels.write_blocks(planes, [mx.zeros(shape) for shape in blocks], counts, slot, place)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt-oss", "mistral"])
def test_what_memory_held_before_reaches_no_answer(long_model, kernels, name):
    path = long_model(name)
    prompts = [[3, 17, 4, 9, 1], [5, 8, 2, *range(3, 40)], [11, 30]]
    expected = [Engine(path, EngineSettings(kernels="off", prefix_bytes=0)).generate([prompt])[0] for prompt in prompts]
    engine = Engine(path, EngineSettings(prefix_bytes=1 << 20))
    size = engine.generate(prompts) and 1 << 21
    # Freed memory is what the next arrays get.
    mx.eval([mx.full((size // 4 // part,), float("nan")) for part in range(1, 65) for _ in range(4)])
    assert engine.generate(prompts) == expected
