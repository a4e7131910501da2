"""Read models of windowed and full layers: their kinds, rotations and shared keys. Knows keys; knows no arrays."""

from engine.config import ConfigReader
from engine.errors import CheckpointUnsupported
from engine.rope_spec import RopeSpec

SLIDING, FULL = "sliding_attention", "full_attention"


def read_kinds(config: ConfigReader, num_layers: int, pattern: int) -> list[str]:
    """Per layer whether it has a window; where layer_types is absent every `pattern`-th has none."""
    if config.has("layer_types"):
        return config.words("layer_types", (SLIDING, FULL), num_layers, FULL)
    return [SLIDING if (layer + 1) % pattern else FULL for layer in range(num_layers)]


def read_sources(config: ConfigReader, kinds: list[str], default_shared: int) -> list[int]:
    """Per layer the number of the one whose keys and values it sees: its own, or the last of its kind that has some."""
    num_shared = int(config.number("num_kv_shared_layers", default_shared))
    num_own = len(kinds) - num_shared
    own = {kind: layer for layer, kind in enumerate(kinds[: max(num_own, 0)])}
    if num_shared < 0 or not set(kinds) <= own.keys():
        raise CheckpointUnsupported("num_kv_shared_layers", num_shared, "layers of every kind before the shared ones")
    return [layer if layer < num_own else own[kind] for layer, kind in enumerate(kinds)]


def read_sliding_rope(config: ConfigReader, head_dim: int) -> RopeSpec:
    """Windowed layers keep the short base, and no scaling, in older files under a key of its own."""
    local_base = config.number("rope_local_base_freq", 10_000.0)
    if config.has("rope_parameters"):
        config.require_layer_types()
        return config.rope(head_dim, local_base, kind=SLIDING)
    return RopeSpec(dims=head_dim, base=local_base)


def is_of_reader(name: str, num_own: int) -> bool:
    """True for keys' and values' tensors, which some files have, of a layer that reads another's.

    num_own: layers before the first of these
    """
    parts = name.split(".")
    if len(parts) < 6 or parts[:2] != ["model", "layers"] or parts[3] != "self_attn" or not parts[2].isdigit():
        return False
    return int(parts[2]) >= num_own and parts[4] in ("k_proj", "v_proj", "k_norm", "v_norm")
