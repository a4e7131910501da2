"""The configuration of a model with fewer layers, neurons or heads. Knows the keys of config.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.compression.cuts import Cut
from engine.evaluation.errors import ModelUnfit

_LAYER_COUNTS = ("num_hidden_layers", "n_layer")
# Lists with an entry per layer.
_PER_LAYER = ("layer_types", "no_rope_layers")
# What makes a layer's computation depend on its number in a way that no list can say.
_BY_NUMBER = {"scale_attn_by_inverse_layer_idx": True}


def pruned_config(config: Mapping[str, Any], cut: Cut, windows: Sequence[int | None], name: str) -> dict[str, Any]:
    """config.json for what stays.

    windows: per old layer the number of tokens it sees, or None for all
    Raises ModelUnfit for a family in which a layer is not the same in another place.
    """
    new = dict(config)
    whole = len(cut.layers) == len(windows)
    if not whole:
        _drop_layers(new, cut.layers, windows, name)
    for key in _LAYER_COUNTS:
        if key in new:
            new[key] = len(cut.layers)
    channels = cut.channels[0] if cut.channels else {}
    if "neurons" in channels:
        new["intermediate_size"] = channels["neurons"].num_channels
    if "groups" in channels:
        head_dim = new.get("head_dim") or new["hidden_size"] // new["num_attention_heads"]
        new |= {
            "head_dim": head_dim,
            "num_attention_heads": channels["heads"].num_channels // head_dim,
            "num_key_value_heads": channels["groups"].num_channels // head_dim,
        }
    return new


def _drop_layers(new: dict[str, Any], kept: Sequence[int], windows: Sequence[int | None], name: str) -> None:
    for key, value in _BY_NUMBER.items():
        if new.get(key) == value:
            raise ModelUnfit(name, f"computes its layers by their number ({key}): none can be left out")
    if new.get("model_type") == "smollm3" and not new.get("no_rope_layers"):
        interval = new.get("no_rope_layer_interval") or 4
        new["no_rope_layers"] = [int((layer + 1) % interval != 0) for layer in range(len(windows))]
    if new.get("model_type") == "qwen3_moe":
        _name_dense_layers(new, kept, len(windows))
    for key in _PER_LAYER:
        if isinstance(new.get(key), list):
            new[key] = [new[key][layer] for layer in kept]
    if any(window is not None for window in windows) and not new.get("layer_types"):
        new["layer_types"] = ["sliding_attention" if windows[layer] else "full_attention" for layer in kept]


def _name_dense_layers(new: dict[str, Any], kept: Sequence[int], num_layers: int) -> None:
    step, dense = new.get("decoder_sparse_step") or 1, set(new.get("mlp_only_layers") or ())
    dense |= {layer for layer in range(num_layers) if (layer + 1) % step}
    new["decoder_sparse_step"] = 1
    new["mlp_only_layers"] = [place for place, layer in enumerate(kept) if layer in dense]
