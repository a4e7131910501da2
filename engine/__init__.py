"""Transformers in MLX, as a synchronous library: `Engine("folder").generate([...])`.

No asyncio, no HTTP, no printing. Importing this package imports no mlx; `Engine` does, when first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.engine import Engine

__all__ = ["Engine"]


def __getattr__(name: str) -> Any:
    """Import Engine when it is first asked for, so that the server's parent process stays free of mlx."""
    if name == "Engine":
        from engine.engine import Engine  # noqa: PLC0415  # late on purpose, see above

        return Engine
    raise AttributeError(name)
