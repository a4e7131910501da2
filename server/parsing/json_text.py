"""JSON as text, whatever a model wrote: neither NaN nor half a surrogate pair gets in. Knows nothing of calls."""

import json
import math
import re
from typing import Any

_HALF_PAIR = re.compile("[\ud800-\udfff]")


def json_text(value: Any) -> str:
    """The value as JSON; numbers that JSON lacks become null, half a surrogate pair the replacement character.

    Raises TypeError and ValueError for values that no JSON has, RecursionError for ones nested too deeply.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)
    return whole_characters(text)


def read_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError, for NaN and infinite numbers too, and RecursionError."""
    return json.loads(text, parse_constant=_refused, parse_float=_finite_number)


def whole_characters(text: str) -> str:
    """The text with halves of surrogate pairs replaced, which no encoding can carry."""
    return _HALF_PAIR.sub("�", text)


def _finite_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _refused(text: str) -> float:
    raise ValueError(text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
