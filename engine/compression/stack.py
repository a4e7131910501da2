"""The layers of a loaded decoder as a list that can be watched and shortened. Knows no family."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from engine.evaluation.errors import ModelUnfit
from engine.layers.module import Module
from engine.model import CausalModel

_NAMES = ("layers", "h")


def layers_of(model: Any, name: str) -> list[Any]:
    """The list that the model goes through, itself: what is changed in it changes the model. Raises ModelUnfit."""
    found = [
        value
        for _, module in model.modules()
        for attribute in _NAMES
        if isinstance(value := vars(module).get(attribute), list) and value and isinstance(value[0], Module)
    ]
    if len(found) != 1:
        raise ModelUnfit(name, "has not one stack of layers, so that none can be left out")
    return found[0]


def require_own_layers(model: CausalModel, config: Mapping[str, Any], name: str) -> None:
    """Raise ModelUnfit where layers share what they need, so that none can be left out."""
    if model.cache.readers:
        raise ModelUnfit(name, "has layers that read the keys and values of others: none can be left out")
    if config.get("hidden_size_per_layer_input"):
        raise ModelUnfit(name, "has one table with the vectors of all layers: none can be left out")


@contextmanager
def replaced(layers: list[Any], make: Callable[[int, Any], Any]) -> Iterator[None]:
    """Have others in the layers' places within the block. make: from a layer's place and the layer."""
    own = list(layers)
    layers[:] = [make(place, layer) for place, layer in enumerate(own)]
    try:
        yield
    finally:
        layers[:] = own


@contextmanager
def parts_replaced(layers: list[Any], attribute: str, make: Callable[[Any], Any]) -> Iterator[list[Any]]:
    """Have others in the places of one part of every layer; gives those others."""
    own = [getattr(layer, attribute) for layer in layers]
    others = [make(part) for part in own]
    for layer, other in zip(layers, others, strict=True):
        setattr(layer, attribute, other)
    try:
        yield others
    finally:
        for layer, part in zip(layers, own, strict=True):
            setattr(layer, attribute, part)
