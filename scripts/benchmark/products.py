"""The packed products alone: one row against the memory's bandwidth, many rows against OpenBLAS, in one run.

    .venv/bin/python scripts/benchmark/products.py [--threads N] [--bits 4]

Bandwidth is what as many threads reach that add up a large array. OpenBLAS is the one inside NumPy, in float32. Both
sides alternate; medians of the rounds are shown.
"""

import argparse
import os
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import mlx.core as mx
import numpy as np

from engine.checkpoint.checkpoint import Quantization
from engine.device import prepare_device
from engine.layers.linear import PanelLayout

ROUNDS = 9
LARGE = (16_384, 32_768)  # rows and columns: 300 MB in 4 bits, more than any last-level cache
MEDIUM = (1536, 576)  # the inner size and the width of a model of 135 million parameters
PREFILL_ROWS = 512
GROUP_SIZE = 32


def seconds(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


def quantized_product(kernels, shape: tuple[int, int], rows: int, bits: int) -> tuple[Callable[[], None], int]:
    """A call that multiplies `rows` rows, and the bytes of its weight."""
    quantization = Quantization(bits=bits, group_size=GROUP_SIZE, mode="affine")
    layout = PanelLayout(kernels, *shape, mx.float16, quantization)
    packed = mx.random.randint(0, 2**31 - 1, (shape[0], shape[1] * bits // 32)).astype(mx.uint32)
    scales = mx.full((shape[0], shape[1] // GROUP_SIZE), 0.01, mx.float16)
    panels = layout.panels(packed, scales, scales)
    x = mx.random.normal((rows, shape[1]))
    mx.eval(panels, x)
    multiply = layout.multiplication([panels], [shape[0]], [None])
    return (lambda: mx.eval(multiply(x))), panels.nbytes


def reading(threads: int) -> tuple[Callable[[], None], int]:
    """A call in which all threads together read an array once, and its bytes."""
    parts = np.ones((threads, (300 << 20) // 4 // threads), np.float32)
    pool = ThreadPoolExecutor(threads)
    return (lambda: list(pool.map(np.sum, parts)) and None), parts.nbytes


def alternate(*calls: Callable[[], None]) -> list[float]:
    """Median seconds of each."""
    for call in calls:
        call()
    rounds = [[seconds(call) for call in calls] for _ in range(ROUNDS)]
    return [statistics.median(each) for each in zip(*rounds, strict=True)]


def repeated(call: Callable[[], None], times: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            call()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--bits", type=int, default=4)
    given = parser.parse_args()
    device = prepare_device("native", given.threads)
    if device.native is None:
        raise SystemExit(device.kernels)

    (one_row, weight_bytes), (read, read_bytes) = (
        quantized_product(device.native, LARGE, 1, given.bits),
        reading(given.threads),
    )
    product_seconds, read_seconds = alternate(one_row, read)
    ours, memory = weight_bytes / product_seconds / 1e9, read_bytes / read_seconds / 1e9
    print(f"one row, {weight_bytes >> 20} MB of {given.bits}-bit weights: {ours:5.1f} GB/s")
    print(f"reading alone, {given.threads} threads:              {memory:5.1f} GB/s   ratio {ours / memory:.2f}")

    many_rows, _ = quantized_product(device.native, MEDIUM, PREFILL_ROWS, given.bits)
    x = np.random.default_rng(0).standard_normal((PREFILL_ROWS, MEDIUM[1])).astype(np.float32)
    weight = np.random.default_rng(1).standard_normal((MEDIUM[1], MEDIUM[0])).astype(np.float32)
    product_seconds, blas_seconds = alternate(repeated(many_rows, 20), repeated(lambda: x @ weight, 20))
    work = 2 * 20 * PREFILL_ROWS * MEDIUM[0] * MEDIUM[1] / 1e9
    ours, blas = work / product_seconds, work / blas_seconds
    print(f"{PREFILL_ROWS} rows of {MEDIUM[1]} to {MEDIUM[0]}, {given.bits} bits:     {ours:5.0f} GFLOP/s")
    print(f"OpenBLAS in float32:                     {blas:5.0f} GFLOP/s   ratio {ours / blas:.2f}")


if __name__ == "__main__":
    main()
