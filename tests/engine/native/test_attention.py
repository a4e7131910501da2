"""Attention over slots against float64, and against itself in other company."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from engine.attention.attend import AttentionOptions, KVLocation, attend, attend_cached
from engine.attention.qkv import Rotation, join_heads, split_heads
from engine.cache.layout import Quantised, layout_for


def random(*shape, seed=1, dtype=mx.float32):
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32)).astype(dtype)


def exact(queries, keys, values, lengths, options):
    """In float64, one slot per row in order."""
    queries, keys, values = (np.array(each.astype(mx.float32), np.float64) for each in (queries, keys, values))
    group, length, places = queries.shape[1] // keys.shape[1], queries.shape[2], keys.shape[2]
    scores = options.scale * queries @ np.repeat(keys, group, 1).swapaxes(-1, -2)
    if options.softcap:
        scores = options.softcap * np.tanh(scores / options.softcap)
    if options.mask is not None:
        mask = np.array(options.mask)
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    ends = np.array(lengths)[:, None] - (np.arange(length)[::-1] if options.causal else 0)
    place = np.arange(places)
    seen = place < ends[..., None]
    if options.window:
        seen &= place >= ends[..., None] - options.window
    scores = np.where(seen[:, None], scores, -np.inf)
    top = scores.max(-1, keepdims=True)
    sinks = None if options.sinks is None else np.array(options.sinks, np.float64)[None, :, None, None]
    top = top if sinks is None else np.maximum(top, sinks)
    weights = np.exp(scores - top)
    total = weights.sum(-1, keepdims=True) + (0 if sinks is None else np.exp(sinks - top))
    return (weights / total) @ np.repeat(values, group, 1)


def attend_with(kernels, queries, planes, tokens, location, options, rotation=None, bits=0):
    """With the kernels, or with the reference."""
    if kernels is None:
        return attend_in_operations(queries, planes, tokens, location, options, rotation, bits)
    return attend_cached(kernels, queries, planes, tokens, location, options, rotation, bits)


def attend_in_operations(queries, planes, tokens, location, options, rotation, bits):
    """The reference, in MLX's own operations."""
    joined, layout = queries.ndim == 3, layout_for(bits or None)
    widths = [plane.shape[3] * 32 // bits for plane in planes[::3]] if bits else [plane.shape[3] for plane in planes]
    queries = _by_head(queries, widths[0])
    queries = queries if rotation is None else rotation.apply(queries)
    if tokens:
        keys, values = (_by_head(each, width) for each, width in zip(tokens, widths, strict=True))
        keys = keys if rotation is None else rotation.apply(keys)
        for plane, new in zip(planes, layout.planes(keys, values), strict=True):
            _write(plane, new, location)
    keys, values = layout.keys_and_values([_of_rows(plane, location.slots, queries.shape[0]) for plane in planes])
    mask = _seen(location.lengths, queries.shape[2], keys.shape[2], options)
    if options.mask is not None:
        shape = (1, 1, *options.mask.shape)[-4:]
        own = options.mask.reshape(shape)
        mask = mask & own if own.dtype == mx.bool_ else mx.where(mask, own, -mx.inf)
    found = attend(queries, keys, values, replace(options, causal=False, window=None, mask=mask))
    return (join_heads(found) if joined else found), planes


def _by_head(x, width):
    return x if x.ndim == 4 else split_heads(x, x.shape[-1] // width)


def _write(plane, tokens, location):
    length = tokens.shape[2]
    if isinstance(location.slots, int) and isinstance(location.starts, int):
        plane[location.slots : location.slots + 1, :, location.starts : location.starts + length] = tokens
        return
    num_rows = tokens.shape[0]
    slots = _column(mx.arange(num_rows) if location.slots is None else location.slots, num_rows)
    places = _column(location.starts, num_rows)
    plane[slots[:, :, None], mx.arange(plane.shape[1])[:, None], (places + mx.arange(length))[:, None]] = tokens


def _of_rows(plane, slots, num_rows):
    if slots is None:
        return plane
    if isinstance(slots, int):
        one = plane[slots : slots + 1]
        return one if num_rows == 1 else mx.broadcast_to(one, (num_rows, *one.shape[1:]))
    return plane[slots]


def _seen(lengths, length, places, options):
    """(rows or 1, 1, length or 1, places) bool."""
    ends = _column(lengths, 1)
    if options.causal:
        ends = ends - mx.arange(length - 1, -1, -1)
    ends = ends[:, None, :, None]
    place = mx.arange(places)
    seen = place < ends
    return seen if options.window is None else seen & (place >= ends - options.window)


def _column(numbers, num_rows):
    return mx.full((num_rows, 1), numbers) if isinstance(numbers, int) else numbers[:, None]


@pytest.fixture(params=["kernel", "operations"])
def native(request, kernels):
    """Both ways of the seam give the same; MLX's own operations need to be tried once only."""
    if request.param == "kernel":
        return kernels
    if "portable" not in request.node.name:
        pytest.skip("no kernels take part")
    return None


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "value_dim", "length", "places", "window", "softcap", "has_sinks"),
    [
        (9, 3, 64, 64, 1, 100, None, None, False),
        (9, 3, 64, 64, 1, 700, None, None, False),
        (9, 3, 64, 64, 70, 300, None, None, False),
        (8, 8, 20, 36, 3, 65, None, None, True),
        (4, 1, 80, 80, 130, 513, 37, 5.0, False),
        (16, 2, 128, 128, 1, 600, 300, 30.0, False),
        (7, 7, 5, 3, 2, 64, 1, None, False),
        (1, 1, 1, 1, 1, 1, None, None, True),
    ],
)
def test_attention_equals_exact(
    native, heads, kv_heads, head_dim, value_dim, length, places, window, softcap, has_sinks, causal
):
    queries = random(3, length, heads, head_dim).transpose(0, 2, 1, 3)
    keys, values = random(3, kv_heads, places, head_dim, seed=2), random(3, kv_heads, places, value_dim, seed=3)
    lengths = [places, max(length, places // 2), length]
    sinks = random(heads, seed=4) if has_sinks else None
    addends = random(1, heads if softcap is None else 1, length, places, seed=5)
    some = (random(3, 1, 1, places, seed=6) > -1) | (mx.arange(places) == 0)
    # A window and missing keys together may leave a query without any.
    for mask in (None, addends, some) if window is None else (None, addends):
        options = AttentionOptions(head_dim**-0.5, causal, window, softcap, sinks, mask)
        location = KVLocation(None if causal else mx.arange(3), 0, mx.array(lengths))
        found, _ = attend_with(native, queries, [keys, values], [], location, options)
        expected = exact(queries, keys, values, lengths, options)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=5e-6)


def test_attention_equals_that_of_mlx(kernels):
    queries, keys, values = random(2, 6, 90, 64), random(2, 2, 90, 64, seed=2), random(2, 2, 90, 64, seed=3)
    expected = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.125, mask="causal")
    found, _ = attend_cached(
        kernels, queries, [keys, values], [], KVLocation(mx.arange(2), 0, 90), AttentionOptions(0.125)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_caches_are_read_exactly(kernels, dtype):
    queries = random(2, 4, 1, 72)
    keys, values = random(2, 2, 90, 72, seed=2, dtype=dtype), random(2, 2, 90, 72, seed=3, dtype=dtype)
    found, _ = attend_cached(kernels, queries, [keys, values], [], KVLocation(None, 0, 90), AttentionOptions(0.1))
    np.testing.assert_allclose(
        found, exact(queries, keys, values, [90, 90], AttentionOptions(0.1)), rtol=1e-5, atol=5e-6
    )


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_caches_hold_and_give_what_mlx_does(native, bits):
    def quantized(x):
        return list(mx.quantize(x, group_size=x.shape[-1], bits=bits))

    queries, tokens = random(2, 4, 3, 64), [random(2, 2, 3, 64, seed=2), random(2, 2, 3, 32, seed=3)]
    tokens[0][0, 0, 0] = 0
    tokens[1][0, 1, 1] = -0.5
    planes = quantized(random(3, 2, 100, 64, seed=4)) + quantized(random(3, 2, 100, 32, seed=5))
    expected = [mx.array(np.array(plane)) for plane in planes]
    location = KVLocation(mx.array([2, 0]), mx.array([9, 97]), mx.array([12, 100]))
    rotation = Rotation(mx.array([10.0**i for i in range(4)]), location.starts)
    found, planes = attend_with(native, queries, planes, tokens, location, AttentionOptions(0.2), rotation, bits)
    for plane, new in zip(expected, [*quantized(rotation.apply(tokens[0])), *quantized(tokens[1])], strict=True):
        plane[2, :, 9:12], plane[0, :, 97:] = new[0], new[1]
    for plane, own in zip(planes[1:3] + planes[4:], expected[1:3] + expected[4:], strict=True):
        np.testing.assert_allclose(plane, own, rtol=1e-5, atol=1e-6)
    restored, wanted = Quantised(bits).keys_and_values(planes), Quantised(bits).keys_and_values(expected)
    # Rotations differ in the last bit, and a value between two levels may go to either.
    assert all(mx.mean(mx.abs(a - b) > 1e-5).item() < 1e-3 for a, b in zip(restored, wanted, strict=True))
    seen = [each[location.slots] for each in restored]
    exactly = exact(rotation.apply(queries), *seen, [12, 100], AttentionOptions(0.2))
    np.testing.assert_allclose(found, exactly, rtol=1e-5, atol=1e-5)


def test_new_tokens_go_to_their_slots_and_places(native):
    planes = [random(5, 2, 40, 16), random(5, 2, 40, 16, seed=2)]
    before = [mx.array(np.array(plane)) for plane in planes]
    queries = random(3, 4, 1, 16, seed=3)
    tokens = [random(3, 2, 1, 16, seed=4), random(3, 2, 1, 16, seed=5)]
    slots, places = [4, 0, 2], [7, 39, 0]
    location = KVLocation(mx.array(slots), mx.array(places), mx.array(places) + 1)
    found, planes = attend_with(native, queries, planes, tokens, location, AttentionOptions(0.25))
    for plane, old, new in zip(planes, before, tokens, strict=True):
        expected = np.array(old)
        expected[slots, :, places] = np.array(new)[:, :, 0]
        np.testing.assert_array_equal(plane, expected)
    own = [plane[mx.array(slots)] for plane in planes]
    expected = exact(queries, *own, [place + 1 for place in places], AttentionOptions(0.25))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=5e-6)


def test_planes_that_somebody_else_holds_are_left_alone(kernels):
    planes = [random(2, 2, 40, 16), random(2, 2, 40, 16, seed=2)]
    held, copies = list(planes), [np.array(plane) for plane in planes]
    tokens = [random(1, 2, 3, 16, seed=4), random(1, 2, 3, 16, seed=5)]
    found, written = attend_cached(
        kernels, random(1, 4, 3, 16), planes, tokens, KVLocation(1, 5, 8), AttentionOptions(0.25)
    )
    mx.eval(found, written)
    for old, copy, new, token in zip(held, copies, written, tokens, strict=True):
        np.testing.assert_array_equal(old, copy)
        np.testing.assert_array_equal(new[1:, :, 5:8], token)


def test_planes_that_nobody_else_holds_are_written_where_they_lie(kernels):
    planes = [mx.zeros((64, 4, 64, 64)), mx.zeros((64, 4, 64, 64))]
    mx.eval(planes)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    for place in range(4):
        tokens = [random(1, 4, 1, 64, seed=place), random(1, 4, 1, 64, seed=place)]
        location = KVLocation(3, place, place + 1)
        found, planes = attend_cached(kernels, random(1, 8, 1, 64), planes, tokens, location, AttentionOptions(0.1))
        mx.eval(found)
    assert mx.get_peak_memory() - before < planes[0].nbytes


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
def test_queries_and_keys_are_rotated_on_the_way(native, joined, interleaved):
    planes = [mx.zeros((3, 2, 50, 24)), mx.zeros((3, 2, 50, 16))]
    queries, keys, values = random(2, 7, 4 * 24), random(2, 7, 2 * 24, seed=2), random(2, 7, 2 * 16, seed=3)
    split = [x.reshape(2, 7, -1, w).transpose(0, 2, 1, 3) for x, w in ((queries, 24), (keys, 24), (values, 16))]
    periods = mx.array([100.0 ** (i / 8) for i in range(8)])
    rotation = Rotation(periods, mx.array([30, 2]), interleaved, 1.5)
    location = KVLocation(mx.array([2, 0]), mx.array([30, 2]), mx.array([37, 9]))
    given = (queries, keys, values) if joined else split
    found, planes = attend_with(native, given[0], planes, given[1:], location, AttentionOptions(0.2), rotation)
    turned, stored = rotation.apply(split[0]), rotation.apply(split[1])
    np.testing.assert_allclose(planes[0][2, :, 30:37], stored[0], rtol=1e-5, atol=5e-6)
    np.testing.assert_array_equal(planes[1][0, :, 2:9], split[2][1])
    expected = exact(turned, planes[0][mx.array([2, 0])], planes[1][mx.array([2, 0])], [37, 9], AttentionOptions(0.2))
    if joined:
        expected = expected.transpose(0, 2, 1, 3).reshape(2, 7, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_keys_may_be_views_and_lie_apart(kernels):
    keys = random(2, 3, 16, 90).transpose(0, 1, 3, 2)
    values = random(2, 90, 3, 16, seed=2).transpose(0, 2, 1, 3)[:, :, 5:50]
    queries = random(2, 3, 16, 4, seed=3).transpose(0, 1, 3, 2)
    location = KVLocation(mx.arange(2), 0, 45)
    found, _ = attend_cached(kernels, queries, [keys[:, :, 5:50], values], [], location, AttentionOptions(0.3))
    expected = exact(queries, keys[:, :, 5:50], values, [45, 45], AttentionOptions(0.3))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=5e-6)


def test_a_prompt_gives_the_same_in_chunks_and_alone_or_beside_others(kernels):
    queries, keys, values = random(1, 6, 330, 64), random(1, 2, 330, 64, seed=2), random(1, 2, 330, 64, seed=3)
    rotation_periods = mx.array([10_000.0 ** (i / 32) for i in range(32)])

    def read(chunks, threads):
        kernels.set_threads(threads)
        planes, parts, place = [mx.zeros((2, 2, 512, 64)), mx.zeros((2, 2, 512, 64))], [], 0
        for chunk in chunks:
            part = slice(place, place + chunk)
            tokens = [keys[:, :, part], values[:, :, part]]
            location, rotation = KVLocation(1, place, place + chunk), Rotation(rotation_periods, place)
            found, planes = attend_cached(
                kernels, queries[:, :, part], planes, tokens, location, AttentionOptions(0.125), rotation
            )
            parts.append(found)
            place += chunk
        kernels.set_threads(2)
        return mx.concatenate(parts, axis=2), planes

    whole, planes = read([330], 2)
    for chunks, threads in (([64] * 5 + [10], 2), ([1] * 70 + [259, 1], 1)):
        found, stored = read(chunks, threads)
        assert mx.array_equal(found, whole)
        assert all(mx.array_equal(ours, theirs) for ours, theirs in zip(stored, planes, strict=True))
    beside = [mx.concatenate([random(*plane[:1].shape, seed=9), plane[1:]]) for plane in planes]
    last = mx.concatenate([random(1, 6, 1, 64, seed=8), queries[:, :, -1:]])
    location, rotation = KVLocation(mx.arange(2), 0, mx.array([77, 330])), Rotation(rotation_periods, 329)
    found, _ = attend_cached(kernels, last, beside, [], location, AttentionOptions(0.125), rotation)
    assert mx.array_equal(found[1], whole[0, :, -1:])


def test_a_token_without_a_place_is_dropped(kernels):
    planes, tokens = [mx.zeros((1, 1, 4, 8)), mx.zeros((1, 1, 4, 8))], [mx.ones((1, 1, 3, 8)), mx.ones((1, 1, 3, 8))]
    _, written = attend_cached(
        kernels, mx.ones((1, 1, 3, 8)), planes, tokens, KVLocation(0, 2, 9), AttentionOptions(1.0)
    )
    assert written[0][0, 0, :, 0].tolist() == [0, 0, 1, 1]


def test_shapes_that_do_not_fit_are_refused(kernels):
    planes = [mx.zeros((1, 2, 4, 8)), mx.zeros((1, 2, 4, 8))]
    for queries, tokens in (
        (mx.zeros((1, 3, 1, 8)), []),
        (mx.zeros((1, 2, 1, 7)), []),
        (mx.zeros((1, 2, 1, 8)), [mx.zeros((1, 2, 2, 8))] * 2),
        (mx.zeros((1, 2, 1, 8)), [mx.zeros((1, 2, 1, 8))]),
        (mx.zeros((1, 1, 17)), []),
    ):
        with pytest.raises(ValueError, match="must"):
            attend_cached(kernels, queries, planes, tokens, KVLocation(0, 0, 1), AttentionOptions(1.0))
