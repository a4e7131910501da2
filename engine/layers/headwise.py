"""A projection of its own for every head. Knows nothing of what the heads mean."""

import mlx.core as mx

from engine.layers.linear import Weight


class HeadwiseLinear(Weight):
    """y[head] = x[head] @ weight[head].T; weight: (num_heads, output_size, input_size)."""

    def __init__(self, num_heads: int, input_size: int, output_size: int) -> None:
        super().__init__(num_heads, output_size, input_size)
        self._heads = mx.arange(num_heads)

    def __call__(self, x: mx.array) -> mx.array:
        """(..., num_heads, input_size) to (..., num_heads, output_size)."""
        by_token = x.reshape(-1, *x.shape[-2:])
        if self._panels is None:
            return self._by_head(by_token.swapaxes(0, 1)).swapaxes(0, 1).reshape(*x.shape[:-1], -1)
        chosen = mx.broadcast_to(self._heads, by_token.shape[:2])
        return self.multiply_chosen(by_token[:, :, None], chosen).reshape(*x.shape[:-1], -1)

    def _by_head(self, x: mx.array) -> mx.array:
        """(num_heads, tokens, input_size) to (num_heads, tokens, output_size)."""
        q = self._quantization
        if q is None:
            return x @ self.weight.swapaxes(-1, -2)
        return mx.quantized_matmul(
            x, self.weight, self.scales, self.biases, group_size=q.group_size, bits=q.bits, mode=q.mode
        )
