"""Recurrent layers' kernels against MLX's operations, with tokens read at once, in parts or one by one."""

import mlx.core as mx
import numpy as np
import pytest

from engine.device import prepare_device
from engine.layers.convolution import CausalConvolution
from engine.layers.delta import DeltaSizes, gated_delta
from engine.layers.state_space import HeadSpaceSizes, scan_channels, scan_heads

DELTA = [DeltaSizes(0, *sizes, 4) for sizes in ((1, 1, 1, 1), (2, 6, 12, 10), (3, 3, 33, 7), (2, 4, 128, 128))]
DELTA += [DeltaSizes(0, 2, 6, 12, 10, 4, tiled=True)]
HEADS = [HeadSpaceSizes(*sizes) for sizes in ((1, 1, 1, 1), (6, 5, 2, 12), (4, 8, 4, 33), (4, 64, 1, 128))]
LENGTH = 9


def random(*shape, seed=1):
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def close(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def in_parts(scan, arrays, state, ends):
    """The result and the state of a scan that reads the tokens part by part."""
    found, start = [], 0
    for end in ends:
        y, state = scan(*(each[:, start:end] for each in arrays), state)
        found.append(y)
        start = end
    return mx.concatenate(found, axis=1), state


def check(scan, reference, arrays, state):
    """One scan: right from any state, and the same bits however tokens and rows are taken together."""
    whole = scan(*arrays, state)
    close(whole, reference(*arrays, state))
    close(scan(*arrays, None), reference(*arrays, None))
    for ends in ((4, LENGTH), range(1, LENGTH + 1)):
        assert all(map(mx.array_equal, in_parts(scan, arrays, state, ends), whole))
    for row in range(state.shape[0]):
        own = slice(row, row + 1)
        assert all(map(mx.array_equal, scan(*(each[own] for each in arrays), state[own]), (x[own] for x in whole)))


@pytest.mark.parametrize("sizes", DELTA)
def test_the_gated_delta_rule_equals_that_of_mlx(kernels, sizes):
    heads = sizes.num_value_heads
    constants = random(heads, seed=4), random(heads, seed=5)
    arrays = random(3, LENGTH, sizes.mixed_size), random(3, LENGTH, heads, seed=2), random(3, LENGTH, heads, seed=3)
    memory = random(3, heads, sizes.value_dim, sizes.key_dim, seed=6)
    lengths = sizes.num_key_heads, sizes.key_dim, sizes.value_dim, sizes.tiled
    check(
        lambda mixed, steps, rates, state: kernels.gated_delta(mixed, steps, rates, *constants, state, *lengths),
        lambda mixed, steps, rates, state: gated_delta(mixed, steps, rates, *constants, state, sizes),
        arrays,
        memory,
    )


@pytest.mark.parametrize("sizes", HEADS)
@pytest.mark.parametrize("limits", [(0.0, float("inf")), (0.3, 0.9)])
def test_mamba_2_equals_its_operations(kernels, sizes, limits):
    sizes = HeadSpaceSizes(sizes.num_heads, sizes.head_dim, sizes.num_groups, sizes.state_size, *limits)
    heads = sizes.num_heads
    constants = random(heads, seed=3), random(heads, seed=4), random(heads, seed=5)
    arrays = random(3, LENGTH, sizes.mixed_size), random(3, LENGTH, heads, seed=2)
    state = random(3, heads, sizes.head_dim, sizes.state_size, seed=6)
    lengths = sizes.head_dim, sizes.num_groups, sizes.state_size, *limits
    check(
        lambda mixed, steps, state: kernels.state_space(mixed, steps, *constants, state, *lengths),
        lambda mixed, steps, state: scan_heads(mixed, steps, *constants, state, sizes),
        arrays,
        state,
    )


@pytest.mark.parametrize(("channels", "size"), [(1, 1), (70, 6), (130, 16), (64, 33)])
def test_mamba_equals_its_operations(kernels, channels, size):
    arrays = (
        *(random(2, LENGTH, channels, seed=seed) for seed in (1, 2)),
        *(random(2, LENGTH, size, seed=seed) for seed in (3, 4)),
    )
    constants = mx.exp(random(channels, size, seed=5)), random(channels, seed=6)
    check(
        lambda *given: kernels.channel_space(*given[:-1], *constants, given[-1]),
        lambda *given: scan_channels(*given[:-1], *constants, given[-1]),
        arrays,
        random(2, channels, size, seed=7),
    )


def test_many_tokens_at_once_are_those_of_mamba_2_one_by_one(kernels):
    sizes = HeadSpaceSizes(2, 4, 1, 8)
    constants = random(2, seed=3), random(2, seed=4), random(2, seed=5)
    mixed, steps = random(1, 200, sizes.mixed_size), random(1, 200, 2, seed=2)
    found = kernels.state_space(mixed, steps, *constants, None, 4, 1, 8, 0.0, float("inf"))
    close(found, scan_heads(mixed, steps, *constants, None, sizes))


@pytest.mark.parametrize(("channels", "width"), [(1, 1), (5, 2), (40, 4), (2100, 3)])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("biased", [False, True])
def test_the_short_convolution_equals_its_operations(kernels, channels, width, activation, biased):
    layer = CausalConvolution(channels, width, bias=biased, activation=activation)
    weight, bias = random(channels, width, seed=2), random(channels, seed=3) if biased else None
    layer.weight = weight[:, None]
    layer.bias = random(channels, seed=3)
    layer.prepare(prepare_device("off"))
    check(
        lambda x, tail: kernels.convolve(x, weight.T, bias, tail, activation is not None),
        layer,
        (random(3, LENGTH, channels),),
        random(3, width - 1, channels, seed=4),
    )


def test_inputs_may_lie_apart_in_memory(kernels):
    sizes = HeadSpaceSizes(4, 8, 2, 12)
    constants = random(4, seed=3), random(4, seed=4), random(4, seed=5)
    joined = random(3, LENGTH, 5 + sizes.mixed_size + 4)
    mixed, steps = joined[..., 5:-4], joined[..., -4:]
    state = random(5, 4, 8, 12, seed=6)[::2]
    found = kernels.state_space(mixed, steps, *constants, state, 8, 2, 12, 0.0, 9.0)
    dense = [mx.contiguous(each) for each in (mixed, steps)]
    expected = kernels.state_space(*dense, *constants, mx.contiguous(state), 8, 2, 12, 0.0, 9.0)
    assert all(map(mx.array_equal, found, expected))
    weight = random(sizes.mixed_size, 4, seed=7)
    convolved = kernels.convolve(mixed, weight.T, None, None, True)
    assert all(map(mx.array_equal, convolved, kernels.convolve(dense[0], mx.contiguous(weight.T), None, None, True)))


def test_a_state_that_somebody_else_refers_to_stays_as_it_is(kernels):
    sizes, memory = DELTA[1], random(1, 6, 10, 12)
    arrays = random(1, 2, sizes.mixed_size), random(1, 2, 6), random(1, 2, 6), random(6), random(6)
    before = np.array(memory)
    mx.eval(kernels.gated_delta(*arrays, memory, 2, 12, 10))
    assert np.array_equal(before, memory)


def test_a_state_that_nobody_else_refers_to_is_replaced_where_it_lies(kernels):
    sizes = DeltaSizes(0, 2, 4, 128, 128, 4)
    arrays = random(1, 2, sizes.mixed_size), random(1, 2, 4), random(1, 2, 4), random(4), random(4)
    memory = mx.contiguous(random(1, 4, 128, 128))
    mx.eval(memory, arrays)
    memory = [memory]
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    for _ in range(5):
        found, behind = kernels.gated_delta(*arrays, memory.pop(), 2, 128, 128)
        memory.append(behind)
        del behind
        mx.eval(found, memory)
    assert mx.get_peak_memory() - before < memory[0].nbytes / 2


def test_other_shapes_and_types_are_refused(kernels):
    with pytest.raises(ValueError, match="numbers of heads"):
        kernels.gated_delta(random(1, 2, 5), random(1, 2, 4), random(1, 2, 4), random(4), random(4), None, 3, 8, 8)
    with pytest.raises(ValueError, match="groups"):
        kernels.state_space(random(1, 2, 5), random(1, 2, 4), *[random(4)] * 3, None, 1, 3, 8, 0.0, 1.0)
    with pytest.raises(ValueError, match="float32"):
        kernels.convolve(random(1, 2, 4).astype(mx.float16), random(3, 4), None, None, False)
    with pytest.raises(ValueError, match="tail"):
        kernels.convolve(random(1, 2, 4), random(3, 4), None, random(1, 3, 4), False)
