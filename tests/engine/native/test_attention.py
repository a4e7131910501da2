"""Attention over slots against float64, and against itself in other company."""

import mlx.core as mx
import numpy as np
import pytest

from engine.attention.attend_rows import KVLocation, Rotation, Scoring, attend_rows
from engine.cache.layout import Quantised


def random(*shape, seed=1, dtype=mx.float32):
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32)).astype(dtype)


def exact(queries, keys, values, lengths, scoring):
    """In float64, one slot per row in order."""
    queries, keys, values = (np.array(each.astype(mx.float32), np.float64) for each in (queries, keys, values))
    group, length, places = queries.shape[1] // keys.shape[1], queries.shape[2], keys.shape[2]
    scores = scoring.scale * queries @ np.repeat(keys, group, 1).swapaxes(-1, -2)
    if scoring.softcap:
        scores = scoring.softcap * np.tanh(scores / scoring.softcap)
    if scoring.mask is not None:
        mask = np.array(scoring.mask)
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    ends = np.array(lengths)[:, None] - (np.arange(length)[::-1] if scoring.causal else 0)
    place = np.arange(places)
    seen = place < ends[..., None]
    if scoring.window:
        seen &= place >= ends[..., None] - scoring.window
    scores = np.where(seen[:, None], scores, -np.inf)
    top = scores.max(-1, keepdims=True)
    sinks = None if scoring.sinks is None else np.array(scoring.sinks, np.float64)[None, :, None, None]
    top = top if sinks is None else np.maximum(top, sinks)
    weights = np.exp(scores - top)
    total = weights.sum(-1, keepdims=True) + (0 if sinks is None else np.exp(sinks - top))
    return (weights / total) @ np.repeat(values, group, 1)


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
        scoring = Scoring(head_dim**-0.5, causal, window, softcap, sinks, mask)
        location = KVLocation(None if causal else mx.arange(3), 0, mx.array(lengths))
        found, _ = attend_rows(native, queries, [keys, values], [], location, scoring)
        expected = exact(queries, keys, values, lengths, scoring)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=5e-6)


def test_attention_equals_that_of_mlx(kernels):
    queries, keys, values = random(2, 6, 90, 64), random(2, 2, 90, 64, seed=2), random(2, 2, 90, 64, seed=3)
    expected = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.125, mask="causal")
    found, _ = attend_rows(kernels, queries, [keys, values], [], KVLocation(mx.arange(2), 0, 90), Scoring(0.125))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_caches_are_read_exactly(kernels, dtype):
    queries = random(2, 4, 1, 72)
    keys, values = random(2, 2, 90, 72, seed=2, dtype=dtype), random(2, 2, 90, 72, seed=3, dtype=dtype)
    found, _ = attend_rows(kernels, queries, [keys, values], [], KVLocation(None, 0, 90), Scoring(0.1))
    np.testing.assert_allclose(found, exact(queries, keys, values, [90, 90], Scoring(0.1)), rtol=1e-5, atol=5e-6)


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
    rotation = Rotation(mx.array([10.0**i for i in range(4)]), location.places)
    found, planes = attend_rows(native, queries, planes, tokens, location, Scoring(0.2), rotation, bits)
    for plane, new in zip(expected, [*quantized(rotation.apply(tokens[0])), *quantized(tokens[1])], strict=True):
        plane[2, :, 9:12], plane[0, :, 97:] = new[0], new[1]
    for plane, own in zip(planes[1:3] + planes[4:], expected[1:3] + expected[4:], strict=True):
        np.testing.assert_allclose(plane, own, rtol=1e-5, atol=1e-6)
    restored, wanted = Quantised(bits).keys_and_values(planes), Quantised(bits).keys_and_values(expected)
    # Rotations differ in the last bit, and a value between two levels may go to either.
    assert all(mx.mean(mx.abs(a - b) > 1e-5).item() < 1e-3 for a, b in zip(restored, wanted, strict=True))
    seen = [each[location.slots] for each in restored]
    exactly = exact(rotation.apply(queries), *seen, [12, 100], Scoring(0.2))
    np.testing.assert_allclose(found, exactly, rtol=1e-5, atol=1e-5)


def test_new_tokens_go_to_their_slots_and_places(native):
    planes = [random(5, 2, 40, 16), random(5, 2, 40, 16, seed=2)]
    before = [mx.array(np.array(plane)) for plane in planes]
    queries = random(3, 4, 1, 16, seed=3)
    tokens = [random(3, 2, 1, 16, seed=4), random(3, 2, 1, 16, seed=5)]
    slots, places = [4, 0, 2], [7, 39, 0]
    location = KVLocation(mx.array(slots), mx.array(places), mx.array(places) + 1)
    found, planes = attend_rows(native, queries, planes, tokens, location, Scoring(0.25))
    for plane, old, new in zip(planes, before, tokens, strict=True):
        expected = np.array(old)
        expected[slots, :, places] = np.array(new)[:, :, 0]
        np.testing.assert_array_equal(plane, expected)
    own = [plane[mx.array(slots)] for plane in planes]
    expected = exact(queries, *own, [place + 1 for place in places], Scoring(0.25))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=5e-6)


def test_planes_that_somebody_else_holds_are_left_alone(kernels):
    planes = [random(2, 2, 40, 16), random(2, 2, 40, 16, seed=2)]
    held, copies = list(planes), [np.array(plane) for plane in planes]
    tokens = [random(1, 2, 3, 16, seed=4), random(1, 2, 3, 16, seed=5)]
    found, written = attend_rows(kernels, random(1, 4, 3, 16), planes, tokens, KVLocation(1, 5, 8), Scoring(0.25))
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
        found, planes = attend_rows(kernels, random(1, 8, 1, 64), planes, tokens, location, Scoring(0.1))
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
    found, planes = attend_rows(native, given[0], planes, given[1:], location, Scoring(0.2), rotation)
    turned, stored = rotation.apply(split[0]), rotation.apply(split[1])
    np.testing.assert_allclose(planes[0][2, :, 30:37], stored[0], rtol=1e-5, atol=5e-6)
    np.testing.assert_array_equal(planes[1][0, :, 2:9], split[2][1])
    expected = exact(turned, planes[0][mx.array([2, 0])], planes[1][mx.array([2, 0])], [37, 9], Scoring(0.2))
    if joined:
        expected = expected.transpose(0, 2, 1, 3).reshape(2, 7, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_keys_may_be_views_and_lie_apart(kernels):
    keys = random(2, 3, 16, 90).transpose(0, 1, 3, 2)
    values = random(2, 90, 3, 16, seed=2).transpose(0, 2, 1, 3)[:, :, 5:50]
    queries = random(2, 3, 16, 4, seed=3).transpose(0, 1, 3, 2)
    location = KVLocation(mx.arange(2), 0, 45)
    found, _ = attend_rows(kernels, queries, [keys[:, :, 5:50], values], [], location, Scoring(0.3))
    expected = exact(queries, keys[:, :, 5:50], values, [45, 45], Scoring(0.3))
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
            found, planes = attend_rows(
                kernels, queries[:, :, part], planes, tokens, location, Scoring(0.125), rotation
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
    found, _ = attend_rows(kernels, last, beside, [], location, Scoring(0.125), rotation)
    assert mx.array_equal(found[1], whole[0, :, -1:])


def test_a_token_without_a_place_is_dropped(kernels):
    planes, tokens = [mx.zeros((1, 1, 4, 8)), mx.zeros((1, 1, 4, 8))], [mx.ones((1, 1, 3, 8)), mx.ones((1, 1, 3, 8))]
    _, written = attend_rows(kernels, mx.ones((1, 1, 3, 8)), planes, tokens, KVLocation(0, 2, 9), Scoring(1.0))
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
            attend_rows(kernels, queries, planes, tokens, KVLocation(0, 0, 1), Scoring(1.0))
