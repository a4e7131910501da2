"""Projections together with what stands around them: a norm before, a gate between, a sum after.

One call of a native kernel where there is one for the whole, else the same operations one after the other.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import mlx.core as mx

from engine.layers.activations import ACTIVATIONS
from engine.layers.linear import Linear, multiply_panels
from engine.layers.norm import RMSNorm
from engine.layers.panels import NOTHING, Around

Norm = Callable[[mx.array], mx.array]


@runtime_checkable
class Branch(Protocol):
    """A part of a block that can add its result to the block's input by itself."""

    def onto(self, x: mx.array, norm: Norm, *context: Any) -> mx.array:
        """x + self(norm(x), *context)."""


def add_branch(x: mx.array, branch: Callable[..., mx.array], norm: Norm, *context: Any) -> mx.array:
    """x + branch(norm(x), *context)."""
    if isinstance(branch, Branch):
        return branch.onto(x, norm, *context)
    return x + branch(norm(x), *context)


def project(x: mx.array, *linears: Linear, norm: Norm | None = None) -> list[mx.array]:
    """Several projections of norm(x). x: (..., columns); returns (..., rows) for each."""
    if _one_layout(linears):
        x, around = _normed(x, norm)
        return multiply_panels(x, linears, around)
    x = x if norm is None else norm(x)
    return [linear(x) for linear in linears]


def project_gated(x: mx.array, gate: Linear, up: Linear, activation: str, norm: Norm | None = None) -> mx.array:
    """activation(gate(norm(x))) * up(norm(x)); activation is a name in ACTIVATIONS."""
    if _one_layout((gate, up)):
        x, around = _normed(x, norm)
        return multiply_panels(x, [gate, up], Around(around.norm, around.eps, activation=activation))[0]
    x = x if norm is None else norm(x)
    return ACTIVATIONS[activation](gate(x)) * up(x)


def project_onto(residual: mx.array, x: mx.array, linear: Linear) -> mx.array:
    """residual + linear(x)."""
    if linear.layout is not None:
        return multiply_panels(x, [linear], Around(residual=residual))[0]
    return residual + linear(x)


def _one_layout(linears: tuple[Linear, ...]) -> bool:
    layouts = [linear.layout for linear in linears]
    return all(layout is not None and layout.fits(layouts[0]) for layout in layouts)


def _normed(x: mx.array, norm: Norm | None) -> tuple[mx.array, Around]:
    if isinstance(norm, RMSNorm):
        return x, Around(norm.factors, norm.eps)
    return (x if norm is None else norm(x)), NOTHING
