"""One architecture's metadata in a GGUF: types checked, reads remembered. Knows no key's meaning."""

from collections.abc import Collection, Mapping
from typing import Any

from engine.checkpoint.json_object import shown
from engine.errors import CheckpointCorrupt, CheckpointUnsupported

_MAX_COUNT = 1 << 24


class GGUFSettings:
    """The keys that begin with the architecture's name. Raises CheckpointCorrupt for a value of the wrong kind.

    file: bare name, for the messages
    """

    def __init__(self, metadata: Mapping[str, Any], architecture: str, file: str) -> None:
        self._metadata = metadata
        self._prefix = f"{architecture}."
        self._file = file
        self._read: set[str] = set()

    def has(self, key: str) -> bool:
        """True when the key is there."""
        return self._prefix + key in self._metadata

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number from 1 to 16 million."""
        value = self._value(key, default)
        if type(value) is not int or not 1 <= value <= _MAX_COUNT:
            raise self._fault(key, value, f"a whole number from 1 to {_MAX_COUNT}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number above 0."""
        value = self._value(key, default)
        if type(value) not in (int, float) or not 0 < value < 1e30:
            raise self._fault(key, value, "a finite number above 0")
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self._value(key, default)
        if type(value) is not bool:
            raise self._fault(key, value, "true or false")
        return value

    def layer_counts(self, key: str, num_layers: int) -> list[int]:
        """A whole number from 0 per layer: a list of them, or one for all layers."""
        value = self._list(key)
        values = [value] * num_layers if type(value) is int else value
        if not isinstance(values, list) or len(values) != num_layers or any(type(each) is not int for each in values):
            raise self._fault(key, value, f"{num_layers} whole numbers")
        return values

    def layer_flags(self, key: str, num_layers: int) -> list[bool]:
        """True or false per layer."""
        values = self._list(key)
        if not isinstance(values, list) or len(values) != num_layers or any(type(each) is not bool for each in values):
            raise self._fault(key, values, f"true or false for each of {num_layers} layers")
        return values

    def is_list(self, key: str) -> bool:
        """True when there is a value per layer."""
        return isinstance(self._metadata.get(self._prefix + key), list)

    def choice(self, key: str, supported: Collection[str], default: str) -> str:
        """One of the supported words. Raises CheckpointUnsupported for another one."""
        value = self._value(key, default)
        if value not in supported:
            raise CheckpointUnsupported(self._prefix + key, _brief(value), ", ".join(supported))
        return str(value)

    def finish(self, neutral: Mapping[str, tuple[Any, ...]]) -> None:
        """Refuse the model when a key is set that nobody has read.

        neutral: values, by key, that leave the result as it is; an empty tuple means every value
        """
        for full_key, value in self._metadata.items():
            if not full_key.startswith(self._prefix) or full_key in self._read:
                continue
            allowed = neutral.get(full_key.removeprefix(self._prefix))
            if allowed is None or (allowed and value not in allowed):
                supported = " or ".join(map(repr, allowed or ())) or "not set"
                raise CheckpointUnsupported(full_key[:80], _brief(value), supported)

    def _list(self, key: str) -> Any:
        self._read.add(self._prefix + key)
        return self._metadata.get(self._prefix + key)

    def _value(self, key: str, default: Any) -> Any:
        self._read.add(self._prefix + key)
        value = self._metadata.get(self._prefix + key, default)
        if value is None:
            raise CheckpointCorrupt(self._file, f"its metadata lacks {self._prefix}{key}")
        if isinstance(value, list):
            raise CheckpointUnsupported(self._prefix + key, "a list", "one value for all layers")
        return value

    def _fault(self, key: str, value: Any, expected: str) -> CheckpointCorrupt:
        return CheckpointCorrupt(self._file, f"{self._prefix}{key} is {shown(value)}, not {expected}")


def _brief(value: Any) -> Any:
    return value[:64] if isinstance(value, str) else "a list" if isinstance(value, list) else value
