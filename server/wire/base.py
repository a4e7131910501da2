"""The base of all request bodies: null is unset, unknown fields are ignored, known but unhonoured ones are refused."""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from server.errors import UnsupportedParameter
from server.limits import MAX_INTEGER, MAX_NAME_CHARACTERS, MAX_TEXT_CHARACTERS

Text = Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARACTERS)]
Name = Annotated[str, StringConstraints(max_length=MAX_NAME_CHARACTERS)]
TokenId = Annotated[int, Field(ge=0, le=MAX_INTEGER)]

HALF_A_PAIR = re.compile("[\ud800-\udfff]")

Refusals = Mapping[str, Callable[[Any], bool]]


class WireModel(BaseModel):
    """A JSON object of a request.

    `refused` maps fields that this version knows and does not honour to the question whether a value asks for anything;
    values that ask for nothing (False, [], "auto") pass. `place` comes before their names in what the client is told.
    """

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, hide_input_in_errors=True)

    refused: ClassVar[Refusals] = {}
    place: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls_and_refuse(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        present = {name: _as_integer(value) for name, value in data.items() if value is not None}
        for name, asks in cls.refused.items():
            if name in present and asks(present[name]):
                raise UnsupportedParameter(cls.place + name)
        return present


def _as_integer(value: Any) -> Any:
    """JSON knows one kind of number: 16.0 is an integer to it."""
    return int(value) if type(value) is float and value.is_integer() else value
