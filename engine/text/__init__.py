"""Text to tokens and back. Imports no mlx: the server's parent process uses it."""
