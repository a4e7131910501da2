"""The functions of the kernels' extension module, as Python sees them. Knows signatures; compiles and loads nothing."""

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx

Arrays = Sequence[mx.array]
Number = int | mx.array  # one for all rows, or (rows,) integers
GivenRotation = tuple[mx.array, Number, bool, float]  # periods, offsets, interleaved, magnitude


class Kernels(Protocol):
    """The native kernels of a device. Every array is float32 unless it says otherwise.

    path: the instructions they are compiled for
    """

    path: str

    def set_threads(self, number: int, /) -> None:
        """Set the number of threads that compute one operation."""

    def threads(self) -> int:
        """The number of threads that compute one operation."""

    def activate(self, function: str, gate: mx.array, up: mx.array | None = None, /) -> mx.array:
        """function(gate), times up where there is one."""

    def rms_norm(self, x: mx.array, weight: mx.array, eps: float, offset: float = 0.0, /) -> mx.array:
        """Rows over their root mean square, times weight + offset."""

    def layer_norm(self, x: mx.array, weight: mx.array | None, bias: mx.array | None, eps: float, /) -> mx.array:
        """Rows without their mean, over their deviation."""

    def convolve(
        self, x: mx.array, weight: mx.array, bias: mx.array | None, tail: mx.array | None, activated: bool, /
    ) -> list[mx.array]:
        """A causal convolution of each channel, with SiLU behind it where `activated`, and the new tail.

        x: (rows, length, channels); weight: (width, channels); tail: (rows, width - 1, channels) or None
        """

    def gated_delta(
        self,
        mixed: mx.array,
        steps: mx.array,
        rates: mx.array,
        log_speeds: mx.array,
        biases: mx.array,
        memory: mx.array | None,
        key_heads: int,
        key_dim: int,
        value_dim: int,
        tiled: bool = False,  # positional, as the extension module has it
        /,
    ) -> list[mx.array]:
        """What each value head finds, and its memory. See engine.layers.delta.gated_delta."""

    def state_space(
        self,
        mixed: mx.array,
        steps: mx.array,
        log_speeds: mx.array,
        biases: mx.array,
        passes: mx.array,
        state: mx.array | None,
        head_dim: int,
        groups: int,
        state_size: int,
        shortest: float,
        longest: float,
        /,
    ) -> list[mx.array]:
        """What each head reads, and its state. See engine.layers.state_space.scan_heads."""

    def channel_space(
        self,
        x: mx.array,
        steps: mx.array,
        inputs: mx.array,
        outputs: mx.array,
        speeds: mx.array,
        passes: mx.array,
        state: mx.array | None,
        /,
    ) -> list[mx.array]:
        """What each channel reads, and its state. See engine.layers.state_space.scan_channels."""

    def attend_cached(
        self,
        queries: mx.array,
        planes: Arrays,
        tokens: Arrays,
        slots: Number | None,
        starts: Number,
        lengths: Number,
        scale: float,
        causal: bool = True,  # positional, as the extension module has it
        window: int = 0,
        softcap: float = 0.0,
        sinks: mx.array | None = None,
        mask: mx.array | None = None,
        rotation: GivenRotation | None = None,
        bits: int = 0,
        /,
    ) -> list[mx.array]:
        """The attended, then the written planes where there are new tokens. See engine.attention.attend."""

    def choose(self, logits: mx.array, number: int = 0, /) -> list[mx.array]:
        """The best token and the log of the sum of exponentials of each row; then ids and logits of the best ones."""

    def draw(
        self,
        logits: mx.array,
        temperatures: mx.array,
        top_k: mx.array,
        top_p: mx.array,
        min_p: mx.array,
        uniform: mx.array,
        /,
    ) -> mx.array:
        """A token per row from the softmax of logits / temperature, cut by top_k, then top_p, then min_p."""

    def empty(self, shape: Sequence[int], dtype: mx.Dtype, /) -> mx.array:
        """Memory whose contents mean nothing."""

    def stack_planes(self, planes: Arrays, /) -> mx.array:
        """Planes (1, heads, tokens, width) as one array (planes, heads, tokens, width)."""

    def write_blocks(
        self, planes: Arrays, blocks: Arrays, counts: Sequence[int], slot: int, place: int, /
    ) -> list[mx.array]:
        """The planes with the first counts[i] tokens of each block written into a slot, from a place on."""

    def panels_of_dense(self, weight: mx.array, /) -> mx.array:
        """A weight (..., rows, columns) as panels (..., rows / 16, bytes)."""

    def panels_of_quantized(
        self,
        quantized: mx.array,
        scales: mx.array,
        biases: mx.array | None,
        group_size: int,
        bits: int,
        mode: str,
        /,
    ) -> mx.array:
        """MLX's quantised arrays (..., rows, words) as panels (..., rows / 16, bytes)."""

    # The rest of their arguments describes the layout: see engine.layers.linear, which passes them through.

    def multiply_dense(self, x: mx.array, panels: Arrays, rows: Sequence[int], /, *layout: object) -> list[mx.array]:
        """x @ weight.T + bias for each of several dense weights of one layout."""

    def multiply_quantized(
        self, x: mx.array, panels: Arrays, rows: Sequence[int], /, *layout: object
    ) -> list[mx.array]:
        """x @ weight.T + bias for each of several quantised weights of one layout."""

    def multiply_dense_chosen(
        self, x: mx.array, stack: mx.array, chosen: mx.array, rows: int, /, *layout: object
    ) -> mx.array:
        """x @ stack[chosen].T for a stack of dense weights."""

    def multiply_quantized_chosen(
        self, x: mx.array, stack: mx.array, chosen: mx.array, rows: int, /, *layout: object
    ) -> mx.array:
        """x @ stack[chosen].T for a stack of quantised weights."""

    def take_dense(self, panels: mx.array, ids: mx.array, rows: int, /, *layout: object) -> mx.array:
        """Rows of dense panels by number: (...) integers to (..., columns)."""

    def take_quantized(self, panels: mx.array, ids: mx.array, rows: int, /, *layout: object) -> mx.array:
        """Rows of quantised panels by number: (...) integers to (..., columns)."""
