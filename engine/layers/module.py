"""A tree of named arrays. The attributes of a layer have the names of the checkpoint's tensors."""

from collections.abc import Iterable, Iterator
from typing import Any

import mlx.core as mx

from engine.cache.spec import CacheSpec
from engine.device import Device
from engine.native.kernels import Kernels


class Module:
    """Base of every layer. Public attributes that are arrays, modules or lists of modules make up the tree."""

    _native: Kernels | None = None  # the kernels of the device it is prepared on, where there are some

    def prepare(self, device: Device) -> None:
        """Bring loaded arrays into the form this device computes with, and learn its kernels."""
        self._native = device.native
        for name, array in self.arrays().items():
            setattr(self, name, device.in_precision(array))

    def arrays(self) -> dict[str, mx.array]:
        """This module's own arrays by attribute name, without the arrays of its parts."""
        return {name: value for name, value in self._public() if isinstance(value, mx.array)}

    def modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """This module and all its parts with their dotted names; its own is the prefix."""
        yield prefix, self
        for name, part in self._parts():
            yield from part.modules(f"{prefix}.{name}" if prefix else name)

    def parameters(self) -> dict[str, mx.array]:
        """Every array of the tree by its dotted name."""
        return {
            f"{prefix}.{name}" if prefix else name: array
            for prefix, module in self.modules()
            for name, array in module.arrays().items()
        }

    def _parts(self) -> Iterator[tuple[str, "Module"]]:
        for name, value in self._public():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list):
                yield from ((f"{name}.{number}", part) for number, part in enumerate(value))

    def _public(self) -> Iterator[tuple[str, Any]]:
        return ((name, value) for name, value in vars(self).items() if not name.startswith("_"))


class Architecture(Module):
    """Base of every architecture's `Model`: how the checkpoint's names and layouts become its own."""

    @property
    def windows(self) -> list[int | None]:
        """Per layer that keeps keys and values the number of tokens it sees, or None for all."""
        raise NotImplementedError

    @property
    def cache(self) -> CacheSpec:
        """The kinds of state that the layers keep per sequence."""
        return CacheSpec(self.windows)

    def rename(self, name: str) -> str | None:
        """Our dotted name of a checkpoint's tensor; None drops it."""
        return name

    def convert(self, tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
        """The checkpoint's tensors under this model's names and in its layouts."""
        for name, array in tensors:
            own = self.rename(name)
            if own is not None:
                yield own, array


class EncoderDecoder(Architecture):
    """Base of architectures whose prompt is read by an encoder, and continued by a decoder."""

    def encode(self, ids: mx.array) -> list[tuple[mx.array, mx.array]]:
        """Keys and values of the source for every decoder layer, (1, num_heads, length, head_dim). ids: (1, length)."""
        raise NotImplementedError
