"""Transformers in MLX, as a library: `Engine("folder").generate([...])`, `Embedder("folder").encode([...])`.

Synchronous: no asyncio, no HTTP, no printing. Importing the package imports no mlx; using what it offers does.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.embedding.embedder import Embedder
    from engine.engine import Engine

__all__ = ["Embedder", "Engine"]


def __getattr__(name: str) -> Any:
    """Import them when they are first asked for, so that the server's parent process stays free of mlx."""
    if name == "Engine":
        from engine.engine import Engine  # noqa: PLC0415  # late on purpose, see above

        return Engine
    if name == "Embedder":
        from engine.embedding.embedder import Embedder  # noqa: PLC0415  # as above

        return Embedder
    raise AttributeError(name)
