"""The wire types of functions that a model may call."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # pydantic asks for this one on Python 3.11

from server.limits import MAX_FUNCTION_NAME_CHARACTERS, MAX_OBJECT_DEPTH, MAX_OBJECT_VALUES, MAX_TOOLS
from server.wire.base import HALF_A_PAIR, Text, WireModel

FunctionName = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_FUNCTION_NAME_CHARACTERS, pattern=r"^[^\s\"\\<>{}\[\]]+$")
]


def _bounded(given: dict[str, Any]) -> dict[str, Any]:
    """The object, if it is neither too deep nor too large to be walked through. Loops, so that depth cannot hurt."""
    level: list[Any] = [given]
    num_values = 0
    for _ in range(MAX_OBJECT_DEPTH):
        children = [each for value in level for each in (value.values() if isinstance(value, dict) else value)]
        keys = [key for value in level if isinstance(value, dict) for key in value]
        if any(isinstance(each, str) and HALF_A_PAIR.search(each) for each in (*keys, *children)):
            raise PydanticCustomError("invalid_value", "holds half a surrogate pair, which is no text")
        num_values += len(children)
        level = [each for each in children if isinstance(each, dict | list)]
        if not level:
            return given
        if num_values > MAX_OBJECT_VALUES:
            break
    raise PydanticCustomError(
        "invalid_value",
        "is nested deeper than {depth} levels or holds more than {values} values",
        {"depth": MAX_OBJECT_DEPTH, "values": MAX_OBJECT_VALUES},
    )


# Any JSON object of a request whose keys are not known here.
BoundedObject = Annotated[dict[str, Any], Field(max_length=MAX_OBJECT_VALUES), AfterValidator(_bounded)]


class FunctionSpec(WireModel):
    """A function; `parameters` is the JSON schema of its arguments.

    strict: where a call is forced, keywords of the schema that cannot be enforced are refused instead of ignored
    """

    name: FunctionName
    strict: bool = False
    description: Text = ""
    parameters: BoundedObject = Field(default={"type": "object", "properties": {}})


class Tool(WireModel):
    """A tool; of all types the API knows, only functions are run by the client."""

    type: Literal["function"] = "function"
    function: FunctionSpec


class NamedFunction(WireModel):
    """A function by its name."""

    name: FunctionName


class NamedTool(WireModel):
    """A tool by its name."""

    type: Literal["function"] = "function"
    function: NamedFunction


class AllowedTools(WireModel):
    """Some of the request's tools."""

    mode: Literal["auto", "required"] = "auto"
    tools: list[NamedTool] = Field(default=[], max_length=MAX_TOOLS)


class ToolChoice(WireModel):
    """A choice that is more than a word."""

    type: Literal["function", "allowed_tools", "custom"]
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None
    custom: NamedFunction | None = None

    @property
    def forces(self) -> bool:
        """True when a function has to be called."""
        return self.allowed_tools.mode == "required" if self.allowed_tools else self.type != "allowed_tools"


class FunctionCallText(TypedDict):
    """A call's function, and its arguments as JSON in a string; pieces of both in streams."""

    name: NotRequired[str]
    arguments: str


class ToolCallOut(TypedDict):
    """A call that the model makes. `index` stands in streams only; the first delta of a call has id, type and name."""

    index: NotRequired[int]
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionCallText
