"""Layers that do one thing each: mix tokens, or compute with every token by itself. Know no configuration."""

from collections.abc import Callable

import mlx.core as mx

from engine.attention.batch import Batch
from engine.layers.module import Module
from engine.layers.norm import RMSNorm


class MixerBlock(Module):
    """x + mixer(norm(x)).

    pointwise: the mixer looks at every token by itself, and takes no batch
    """

    def __init__(self, mixer: Callable[..., mx.array], norm: RMSNorm, *, pointwise: bool = False) -> None:
        self.mixer = mixer
        self.norm = norm
        self._pointwise = pointwise

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        normed = self.norm(x)
        return x + (self.mixer(normed) if self._pointwise else self.mixer(normed, batch))


def rename_backbone(name: str) -> str:
    """Our name for a part of the frame that Mamba's checkpoints call `backbone`."""
    if name.startswith("backbone."):
        name = f"model.{name.removeprefix('backbone.')}"
    return name.replace("model.embeddings.", "model.embed_tokens.").replace("model.norm_f.", "model.norm.")
