"""Microseconds per call of the small operations of a decoder, in MLX and in the native kernels.

    .venv/bin/python scripts/benchmark/operations.py [--rows 1,8] [--context 500]

Sizes are those of a model of 135 million parameters: 9 heads over 3 key heads of 64, hidden size 576, inner size 1536,
30 layers. The calls of a round are evaluated together, so host time counts; the quickest round is shown.
"""

import argparse
from collections.abc import Callable
from time import perf_counter

import mlx.core as mx

from engine.attention.attend import AttentionOptions, KVLocation, attend_cached
from engine.attention.qkv import Rotation, split_heads
from engine.device import prepare_device
from engine.layers.convolution import CausalConvolution
from engine.layers.delta import DeltaSizes, gated_delta
from engine.layers.state_space import HeadSpaceSizes, scan_heads
from engine.native.kernels import Kernels
from engine.sampling.params import SamplingParams
from engine.sampling.sampler import SamplerRow, sample

ROUNDS, HEADS, KV_HEADS, HEAD_DIM, HIDDEN, INNER, VOCABULARY, LAYERS = 15, 9, 3, 64, 576, 1536, 49_152, 30
PREFILL = 700
Call = Callable[[], mx.array]


def microseconds(call: Call, calls: int) -> float:
    """Of one call, in the quickest round."""
    rounds = []
    for _ in range(ROUNDS):
        start = perf_counter()
        mx.eval([call() for _ in range(calls)])
        rounds.append(perf_counter() - start)
    return min(rounds) / calls * 1e6


def pointwise(kernels: Kernels, rows: int) -> dict[str, tuple[Call, Call, int]]:
    """Operations that know no other positions: (MLX's, ours, calls per round)."""
    x, weight = mx.random.normal((rows, 1, HIDDEN)), mx.ones((HIDDEN,))
    gate, up = mx.random.normal((rows, 1, INNER)), mx.random.normal((rows, 1, INNER))
    logits = mx.random.normal((rows, VOCABULARY))
    mx.eval(x, weight, gate, up, logits)
    params = SamplingParams(max_tokens=1, temperature=0.7, top_p=0.9)
    sampled = [SamplerRow(params, (1,), frozenset(), VOCABULARY) for _ in range(rows)]
    return {
        "RMS norm": (lambda: mx.fast.rms_norm(x, weight, 1e-5), lambda: kernels.rms_norm(x, weight, 1e-5), 200),
        "SiLU times up": (lambda: gate * mx.sigmoid(gate) * up, lambda: kernels.activate("silu", gate, up), 200),
        "best token and log-sum-exp": (
            lambda: mx.argmax(logits, -1) + mx.logsumexp(logits, -1),
            lambda: kernels.choose(logits)[1],
            10,
        ),
        "token with top_p": (
            lambda: sample(logits, sampled).tokens,
            lambda: sample(logits, sampled, kernels).tokens,
            5,
        ),
    }


def attention(kernels: Kernels, rows: int, context: int) -> dict[str, tuple[Call, Call, int]]:
    """Rotation of queries and keys, storing and attention together."""
    queries, keys = mx.random.normal((rows, 1, HEADS * HEAD_DIM)), mx.random.normal((rows, 1, KV_HEADS * HEAD_DIM))
    periods = mx.array([10_000 ** (2 * i / HEAD_DIM) for i in range(HEAD_DIM // 2)])
    rotation = Rotation(periods, mx.array([context - 1] * rows))
    location = KVLocation(mx.arange(rows), mx.array([context - 1] * rows), mx.array([context] * rows))
    planes = {
        name: [[mx.random.normal((rows, KV_HEADS, context, HEAD_DIM)) for _ in range(2)] for _ in range(LAYERS)]
        for name in ("MLX", "ours")
    }
    mx.eval(queries, keys, planes)

    def layer_in_operations() -> mx.array:
        own = planes["MLX"].pop(0)
        split = [rotation.apply(split_heads(x, x.shape[-1] // HEAD_DIM)) for x in (queries, keys)]
        for plane in own:
            plane[mx.arange(rows), :, rotation.offsets] = split[1][:, :, 0]
        planes["MLX"].append(own)
        return mx.fast.scaled_dot_product_attention(split[0], *own, scale=0.125)

    def layer() -> mx.array:
        own = planes["ours"].pop(0)
        found, own = attend_cached(kernels, queries, own, (keys, keys), location, AttentionOptions(0.125), rotation)
        planes["ours"].append(own)
        return found

    return {
        f"rotation and attention, {context} keys": (layer_in_operations, layer, LAYERS),
    }


def recurrence(kernels: Kernels, rows: int) -> dict[str, tuple[Call, Call, int]]:
    """One token of recurrent layers, with the sizes of Qwen 3.5 4B and, for Mamba-2, of as large a state."""
    sizes, space = DeltaSizes(2560, 16, 32, 128, 128, 4), HeadSpaceSizes(32, 128, 1, 128)
    mixed, factors, constants = mx.random.normal((rows, 1, sizes.mixed_size)), mx.ones((rows, 1, 32)), mx.ones((32,))
    state, inputs = mx.random.normal((rows, 32, 128, 128)), mx.random.normal((rows, 1, space.mixed_size))
    weight, tail = mx.random.normal((4, sizes.mixed_size)), mx.random.normal((rows, 3, sizes.mixed_size))
    layer = CausalConvolution(sizes.mixed_size, 4, bias=False, activation="silu")
    layer.prepare(prepare_device("off"))
    mx.eval(mixed, factors, constants, state, inputs, weight, tail)
    given = constants, constants, state
    return {
        "gated delta rule": (
            lambda: gated_delta(mixed, factors, factors, *given, sizes)[0],
            lambda: kernels.gated_delta(mixed, factors, factors, *given, 16, 128, 128)[0],
            4,
        ),
        "Mamba-2": (
            lambda: scan_heads(inputs, factors, constants, *given, space)[0],
            lambda: kernels.state_space(inputs, factors, constants, *given, 128, 1, 128, 0.0, 1e9)[0],
            4,
        ),
        "short convolution and SiLU": (
            lambda: layer(mixed, tail)[0],
            lambda: kernels.convolve(mixed, weight, None, tail, True)[0],
            50,
        ),
    }


def prefill(kernels: Kernels) -> dict[str, tuple[Call, Call, int]]:
    """Causal attention of a prompt to itself."""
    queries = mx.random.normal((1, HEADS, PREFILL, HEAD_DIM))
    planes = [mx.random.normal((1, KV_HEADS, PREFILL, HEAD_DIM)) for _ in range(2)]
    mx.eval(queries, planes)
    location, options = KVLocation(0, 0, PREFILL), AttentionOptions(0.125)
    return {
        f"attention of {PREFILL} tokens": (
            lambda: mx.fast.scaled_dot_product_attention(queries, *planes, scale=0.125, mask="causal"),
            lambda: attend_cached(kernels, queries, planes, [], location, options)[0],
            1,
        )
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="Microseconds per call of small operations.")
    parser.add_argument("--rows", default="1,8", help="rows per batch, with commas between")
    parser.add_argument("--context", type=int, default=500, help="keys that a decoded token sees")
    arguments = parser.parse_args()
    device = prepare_device()
    print(f"{'':42}{'rows':>5}{'MLX us':>12}{'ours us':>10}   {device.kernels}")
    for rows in [int(each) for each in arguments.rows.split(",")]:
        measured = pointwise(device.native, rows) | attention(device.native, rows, arguments.context)
        measured |= recurrence(device.native, rows)
        if rows == 1:
            measured |= prefill(device.native)
        for name, (theirs, ours, calls) in measured.items():
            print(f"{name:42}{rows:5}{microseconds(theirs, calls):12.1f}{microseconds(ours, calls):10.1f}")


if __name__ == "__main__":
    main()
