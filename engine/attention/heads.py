"""Heads apart and side by side: the two shapes of queries, keys and values. Knows shapes, no arithmetic."""

import mlx.core as mx


def split_heads(x: mx.array, num_heads: int) -> mx.array:
    """(rows, length, num_heads * head_dim) to (rows, num_heads, length, head_dim)."""
    num_rows, length, _ = x.shape
    return x.reshape(num_rows, length, num_heads, -1).transpose(0, 2, 1, 3)


def join_heads(x: mx.array) -> mx.array:
    """(rows, num_heads, length, head_dim) to (rows, length, num_heads * head_dim)."""
    num_rows, _, length, _ = x.shape
    return x.transpose(0, 2, 1, 3).reshape(num_rows, length, -1)
