"""Read a checkpoint's configuration and refuse what is not implemented. Imports no mlx.

An architecture reads the keys it honours through `ConfigReader`. At the end, `finish()` looks at every key that is
known to change the maths in some family: one that is set and was not read refuses the model.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from engine.errors import CheckpointUnsupported
from engine.neutral_values import NEUTRAL_VALUES
from engine.rope_spec import RopeSpec

Number = TypeVar("Number", int, float)

# Numbers beside the usual ones of rope_parameters and rope_scaling, which change the result where they are set.
_ROPE_EXTRAS = ("alpha", "llama_4_scaling_beta", "long_mscale", "short_mscale")
_MAX_COUNT = 1 << 24


def head_size(hidden_size: int, num_heads: int) -> int:
    """The dimensions of a head where all heads together are as wide as the model. Raises CheckpointUnsupported."""
    if hidden_size % num_heads:
        raise CheckpointUnsupported("number of heads", num_heads, f"a divisor of the hidden size {hidden_size}")
    return hidden_size // num_heads


class ConfigReader:
    """The keys of a config.json, with types checked and what was read remembered.

    shapes: of the tensors that the checkpoint stores, for the few families whose configuration does not tell
    """

    def __init__(self, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None = None) -> None:
        self._config = config
        self._shapes = shapes or {}
        self._read: set[str] = set()

    def has(self, key: str) -> bool:
        """True when the key is there and not null."""
        self._read.add(key)
        return self._config.get(key) is not None

    def stores(self, tensor_name: str) -> bool:
        """True when the checkpoint has this tensor."""
        return tensor_name in self._shapes

    def shape_of_first(self, ending: str) -> tuple[int, ...] | None:
        """The shape of a stored tensor whose name ends so; None where there is none."""
        return next((shape for name, shape in self._shapes.items() if name.endswith(ending)), None)

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number from 1 to 16 million; the default when the key is absent or null."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_COUNT:
            raise CheckpointUnsupported(key, value, f"a whole number from 1 to {_MAX_COUNT}")
        return value

    def whole(self, key: str, default: int) -> int:
        """A whole number from 0 to 16 million; the default when the key is absent or null."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_COUNT:
            raise CheckpointUnsupported(key, value, f"a whole number from 0 to {_MAX_COUNT}")
        return value

    def counts(self, key: str, length: int) -> list[int]:
        """A whole number per layer, or one for all of them."""
        value = self._value(key, None)
        values = value if isinstance(value, list) else [value] * length
        if len(values) != length or any(type(each) is not int or not 1 <= each <= _MAX_COUNT for each in values):
            raise CheckpointUnsupported(key, value, f"a whole number from 1 to {_MAX_COUNT}, or {length} of them")
        return values

    def optional_count(self, key: str, default: int | None = None, *, least: int = 1) -> int | None:
        """A whole number; the default when the key is absent, null or "auto"."""
        value = self._config.get(key)
        self._read.add(key)
        if value is None or value == "auto":
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MAX_COUNT:
            raise CheckpointUnsupported(key, value, f'a whole number from {least} to {_MAX_COUNT}, or "auto"')
        return value

    def limits(self, key: str) -> tuple[float, float]:
        """The least and the greatest value of something that is above 0; infinite where the key does not say."""
        value = self._value(key, [0.0, math.inf])
        # JSON has no word for infinity: transformers writes an object, others leave JSON behind.
        infinite = ({"__float__": "Infinity"}, math.inf, "Infinity")
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise CheckpointUnsupported(key, value, "a list of 2 numbers")
        least, greatest = (math.inf if each in infinite else _finite(key, each) for each in value)
        return least, greatest

    def text(self, key: str) -> str:
        """A text, or the texts of a list joined."""
        value = self._value(key, None)
        return value if isinstance(value, str) else "".join(self.texts(key))

    def texts(self, key: str) -> list[str]:
        """A list of texts of any length."""
        value = self._value(key, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise CheckpointUnsupported(key, value, "a list of texts")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number; the default when the key is absent or null."""
        return _finite(key, self._value(key, default))

    def flag(self, key: str, *, default: bool) -> bool:
        """A boolean; the default when the key is absent or null."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise CheckpointUnsupported(key, value, "true or false")
        return value

    def choice(self, key: str, supported: Collection[str], default: str | None = None) -> str:
        """One of the supported words; the default when the key is absent or null."""
        value = self._value(key, default)
        if not isinstance(value, str) or value not in supported:
            raise CheckpointUnsupported(key, value, ", ".join(sorted(supported)))
        return value

    def words(self, key: str, supported: Collection[str], length: int, default: str) -> list[str]:
        """One of the supported words per layer; `length` times the default when the key is absent."""
        value = self._value(key, [default] * length)
        if not isinstance(value, list) or len(value) != length or not all(map(supported.__contains__, map(str, value))):
            raise CheckpointUnsupported(key, value, f"{length} of {', '.join(sorted(supported))}")
        return [str(word) for word in value]

    def numbers(self, key: str, length: int) -> list[float] | None:
        """A list of `length` finite numbers, or None when the key is absent or null."""
        value = self._value(key, [])
        if not value:
            return None
        if not isinstance(value, list) or len(value) != length:
            raise CheckpointUnsupported(key, value, f"a list of {length} numbers")
        return [_finite(key, each) for each in value]

    def integers(self, key: str) -> list[int]:
        """A list of whole numbers, empty when the key is absent or null."""
        value = self._value(key, [])
        if not isinstance(value, list) or any(isinstance(each, bool) or not isinstance(each, int) for each in value):
            raise CheckpointUnsupported(key, value, "a list of whole numbers")
        return value

    def inverse_root(self, key: str, default: float) -> float:
        """One over the square root of a number above 0."""
        value = self.number(key, default)
        if value <= 0:
            raise CheckpointUnsupported(key, value, "a number above 0")
        return float(value**-0.5)

    def optional_number(self, key: str) -> float | None:
        """A finite number, or None when the key is absent or null."""
        return self.number(key) if self.has(key) else None

    def labels(self) -> int:
        """Outputs of a classifier: the names in id2label, else num_labels, else 2."""
        names = self._value("id2label", {})
        return len(names) if isinstance(names, dict) and names else self.count("num_labels", 2)

    def expect(self, key: str, *supported: Any) -> None:
        """Refuse the model unless this key, when it is there, has one of these values."""
        value = self._value(key, supported[0])
        if value not in supported:
            raise CheckpointUnsupported(key, value, " or ".join(map(repr, supported)))

    def require(self, key: str, value: bool) -> None:
        """Refuse the model unless this switch, when it is there, has the given value."""
        if self.flag(key, default=value) is not value:
            raise CheckpointUnsupported(key, not value, str(value).lower())

    def heads(self, default_head_dim: int | None = None) -> tuple[int, int, int, int]:
        """hidden_size, num_heads, num_kv_heads and head_dim under their usual keys."""
        hidden_size = self.count("hidden_size")
        num_heads = self.count("num_attention_heads")
        num_kv_heads = self.count("num_key_value_heads", num_heads)
        return (
            hidden_size,
            num_heads,
            num_kv_heads,
            self.count("head_dim", default_head_dim or hidden_size // num_heads),
        )

    def windows(self, num_layers: int) -> list[int | None]:
        """Per layer the sliding window, or None: `sliding_window`, in the layers that `layer_types` names."""
        window = self.count("sliding_window") if self.has("sliding_window") else None
        default = "full_attention" if window is None else "sliding_attention"
        kinds = self.words("layer_types", ("full_attention", "sliding_attention"), num_layers, default)
        return [window if kind == "sliding_attention" else None for kind in kinds]

    def upper_windows(self, num_layers: int) -> list[int | None]:
        """Where use_sliding_window is on: as `layer_types` says, else from layer max_window_layers upwards."""
        first, listed = self.number("max_window_layers", 28), self.has("layer_types")
        windows = self.windows(num_layers)
        if not self.flag("use_sliding_window", default=False):
            return [None] * num_layers
        if listed:
            return windows
        window = self.count("sliding_window", 4096) if self._config.get("sliding_window", 0) is not None else None
        return [window if layer >= first else None for layer in range(num_layers)]

    def patterned_windows(self, num_layers: int, default_pattern: int) -> list[int | None]:
        """As layer_types says, else every `sliding_window_pattern`-th layer sees everything; the window is 4096."""
        pattern = self.count("sliding_window_pattern", default_pattern)
        window = self.count("sliding_window", 4096)
        if self.has("layer_types"):
            return self.windows(num_layers)
        return [window if (layer + 1) % pattern else None for layer in range(num_layers)]

    def rope(
        self,
        head_dim: int,
        default_base: float = 10_000.0,
        *,
        default_part: float | None = None,
        kind: str | None = None,
        names: tuple[str, str] = ("rope_theta", "partial_rotary_factor"),
        default_scaling: Mapping[str, Any] | None = None,
    ) -> RopeSpec:
        """The rotary embedding, from `rope_parameters` or the older `rope_theta` with `rope_scaling`.

        default_part: share of a head's dimensions that is rotated when the configuration says nothing; None in families
            that rotate whole heads, and refuse to rotate less
        kind: the layer type whose parameters are meant, where there are several
        names: the keys of the base and the part outside `rope_parameters`
        default_scaling: stands in for `rope_parameters` where there is nothing of the kind
        """
        parameters = self._mapping("rope_parameters")
        if kind is not None and kind in parameters:
            parameters = _object("rope_parameters", parameters[kind])
        parameters = parameters or self._mapping("rope_scaling") or default_scaling or {}
        base = parameters.get("rope_theta", self._value(names[0], default_base))
        part = parameters.get("partial_rotary_factor", self._value(names[1], default_part or 1.0))
        dims = int(head_dim * _finite(names[1], part))
        is_whole = default_part is None and parameters.get("rope_type") != "proportional"
        if dims % 2 or not dims or (is_whole and dims != head_dim):
            raise CheckpointUnsupported(names[1], part, self._supported((1.0,)) if is_whole else "pairs of dimensions")
        context = self.count("max_position_embeddings", 2048)
        spec = _rope_spec(parameters, dims, _finite("rope_theta", base), context, self)
        if spec.kind != "proportional":
            return spec
        # Pairs are those of the whole head, of which a part turns.
        return replace(spec, dims=head_dim, turning_pairs=dims // 2)

    def require_layer_types(self) -> None:
        """Refuse rotary parameters that are not given per layer type, where transformers passes over them."""
        parameters = self._mapping("rope_parameters")
        if not all(isinstance(each, dict) for each in parameters.values()):
            raise CheckpointUnsupported("rope_parameters", dict(parameters), "parameters per layer type")

    def rope_extra(self, key: str) -> float | None:
        """A number beside the usual ones of `rope_parameters` or `rope_scaling`; None when it is absent or null."""
        self._read.add(f"rope.{key}")
        value = self._rope_parameters().get(key)
        return None if value is None else _finite(f"rope_parameters.{key}", value)

    def finish(self) -> None:
        """Refuse the model when a key that changes the maths is set and nobody has read it."""
        for key in _ROPE_EXTRAS:
            value = self._rope_parameters().get(key)
            if value is not None and f"rope.{key}" not in self._read:
                raise CheckpointUnsupported(f"rope_parameters.{key}", value, self._supported(()))
        for key, neutral in NEUTRAL_VALUES.items():
            value = self._config.get(key)
            if key in self._read or value is None or value in neutral:
                continue
            raise CheckpointUnsupported(key, value, self._supported(neutral))

    def _supported(self, neutral: Collection[Any]) -> str:
        values = " or ".join(repr(each) for each in neutral) or "not set"
        return f"{values} for model_type {self._config.get('model_type')!r}"

    def _rope_parameters(self) -> Mapping[str, Any]:
        found = (self._config.get(key) for key in ("rope_parameters", "rope_scaling"))
        return next((each for each in found if isinstance(each, dict) and each), {})

    def _value(self, key: str, default: Any) -> Any:
        self._read.add(key)
        value = self._config.get(key)
        value = default if value is None else value
        if value is None:
            raise CheckpointUnsupported(key, None, "a value: config.json has none")
        return value

    def _mapping(self, key: str) -> Mapping[str, Any]:
        return _object(key, self._value(key, {}))


def _object(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointUnsupported(key, value, "an object")
    return value


def _finite(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise CheckpointUnsupported(key, value, "a finite number")
    return float(value)


def _rope_spec(parameters: Mapping[str, Any], dims: int, base: float, context: int, reader: ConfigReader) -> RopeSpec:
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    readers = {
        "default": _plain_rope,
        "linear": _factor_rope,
        "dynamic": _factor_rope,
        "yarn": _yarn_rope,
        "llama3": _llama3_rope,
        "longrope": _longrope,
        "proportional": _proportional_rope,
    }
    if not isinstance(kind, str) or kind not in readers:
        raise CheckpointUnsupported("rope_scaling.rope_type", kind, ", ".join(readers))
    original = context if kind == "dynamic" else parameters.get("original_max_position_embeddings")
    if kind != "dynamic" and reader.has("original_max_position_embeddings"):
        original = reader.count("original_max_position_embeddings")  # the outer one counts
    length = int(_finite("rope_scaling.original_max_position_embeddings", original or context))
    extra = readers[kind](parameters, dims, context / length)
    return RopeSpec(dims=dims, base=base, kind=kind, original_length=length, **extra)


def _plain_rope(parameters: Mapping[str, Any], dims: int, stretch: float) -> dict[str, Any]:
    return {}


def _factor_rope(parameters: Mapping[str, Any], dims: int, stretch: float) -> dict[str, Any]:
    return {"factor": _rope_number(parameters, "factor", None)}


def _proportional_rope(parameters: Mapping[str, Any], dims: int, stretch: float) -> dict[str, Any]:
    return {"factor": _rope_number(parameters, "factor", 1.0)}


def _yarn_rope(parameters: Mapping[str, Any], dims: int, stretch: float) -> dict[str, Any]:
    optional = {
        key: _rope_number(parameters, key, None)
        for key in ("mscale", "mscale_all_dim", "attention_factor")
        if parameters.get(key) is not None
    }
    return optional | {
        "factor": _rope_number(parameters, "factor", stretch),
        "beta_fast": _rope_number(parameters, "beta_fast", 32.0),
        "beta_slow": _rope_number(parameters, "beta_slow", 1.0),
        "truncate": bool(parameters.get("truncate", True)),
    }


def _llama3_rope(parameters: Mapping[str, Any], dims: int, stretch: float) -> dict[str, Any]:
    return {key: _rope_number(parameters, key, None) for key in ("factor", "low_freq_factor", "high_freq_factor")}


def _longrope(parameters: Mapping[str, Any], dims: int, stretch: float) -> dict[str, Any]:
    factors = {name: _rope_factors(parameters, name, dims // 2) for name in ("short_factor", "long_factor")}
    extra: dict[str, Any] = {"short_factors": factors["short_factor"], "long_factors": factors["long_factor"]}
    if parameters.get("attention_factor") is not None:
        extra["attention_factor"] = _rope_number(parameters, "attention_factor", None)
    return extra | {"factor": _rope_number(parameters, "factor", stretch)}


def _rope_number(parameters: Mapping[str, Any], key: str, default: float | None) -> float:
    value = parameters.get(key)
    return _finite(f"rope_scaling.{key}", default if value is None else value)


def _rope_factors(parameters: Mapping[str, Any], key: str, length: int) -> tuple[float, ...]:
    values = parameters.get(key)
    if not isinstance(values, list) or len(values) != length:
        raise CheckpointUnsupported(f"rope_scaling.{key}", values, f"a list of {length} numbers")
    return tuple(_finite(f"rope_scaling.{key}", value) for value in values)
