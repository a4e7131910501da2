"""Parse JSON written by strangers, an object or a list. Knows size, depth and duplicate keys; knows no meanings."""

import json
import re
from collections import Counter
from typing import Any, TypeVar

from engine.errors import CheckpointCorrupt

_MAX_DEPTH = 64
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")

Top = TypeVar("Top", dict[str, Any], list[Any])


def parse_object(text: bytes, file: str) -> dict[str, Any]:
    """Parse UTF-8 JSON whose top is an object, at most 64 levels deep and without a key given twice.

    file: bare name, for the message
    Raises CheckpointCorrupt.
    """
    return _parse(text, file, dict, "an object")


def parse_list(text: bytes, file: str) -> list[Any]:
    """Parse JSON whose top is a list. Raises as parse_object does."""
    return _parse(text, file, list, "a list")


def shown(text: object) -> str:
    """A name from a file, fit for a message: quoted, escaped, and cut at 80 characters."""
    quoted = ascii(text)
    return quoted if len(quoted) <= 80 else f"{quoted[:76]}...{quoted[0]}"


def _parse(text: bytes, file: str, kind: type[Top], name: str) -> Top:
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=lambda pairs: _unique(pairs, file))
    except (ValueError, RecursionError) as error:
        raise CheckpointCorrupt(file, f"it is not JSON ({_reason(error)})") from None
    if not isinstance(value, kind):
        raise CheckpointCorrupt(file, f"its JSON is a {type(value).__name__}, not {name}")
    _check_depth(value, file)
    if _HALF_PAIR.search(text) and not _is_unicode(value):
        raise CheckpointCorrupt(file, "a text in it has half of a surrogate pair")
    return value


def _is_unicode(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _unique(pairs: list[tuple[str, Any]], file: str) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise CheckpointCorrupt(file, f"key {shown(twice)} is given twice")
    return mapping


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')} at character {error.pos}"
    return {UnicodeDecodeError: "not UTF-8", RecursionError: "nested too deeply"}.get(
        type(error), "a number is too long"
    )


def _check_depth(value: dict[str, Any] | list[Any], file: str) -> None:
    level: list[Any] = [value]
    for _ in range(_MAX_DEPTH):
        level = [child for parent in level for child in _children(parent) if isinstance(child, dict | list)]
        if not level:
            return
    raise CheckpointCorrupt(file, f"its JSON is nested more than {_MAX_DEPTH} levels deep")


def _children(parent: dict[str, Any] | list[Any]) -> Any:
    return parent.values() if isinstance(parent, dict) else parent
