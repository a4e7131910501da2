"""C++ kernels for MLX's CPU backend: building, loading and arithmetic."""
