"""The fields that say what an answer has to look like: OpenAI's, and what clients of vLLM and llama.cpp send."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, StringConstraints

from server.limits import (
    MAX_GRAMMAR_CHARACTERS,
    MAX_OBJECT_VALUES,
    MAX_PATTERN_CHARACTERS,
    MAX_SCHEMA_CHARACTERS,
    MAX_WORDS,
)
from server.wire.base import Name, Refusals, Text, WireModel

Pattern = Annotated[str, StringConstraints(max_length=MAX_PATTERN_CHARACTERS)]
GrammarText = Annotated[str, StringConstraints(max_length=MAX_GRAMMAR_CHARACTERS)]
Word = Annotated[str, StringConstraints(max_length=MAX_SCHEMA_CHARACTERS)]
# Looked through by server.generation.structure, which says better what is wrong with it; some clients send it as text.
Schema = Annotated[dict[str, Any], Field(max_length=MAX_OBJECT_VALUES)] | bool | Text
Words = Annotated[list[Word], Field(min_length=1, max_length=MAX_WORDS)]


class JsonSchema(WireModel):
    """A schema with a name. strict: keywords that cannot be enforced are refused instead of ignored."""

    name: Name = ""
    description: Text = ""
    value: Schema | None = Field(default=None, alias="schema")
    strict: bool = False


class ResponseFormat(WireModel):
    """The kind of the answer. A schema beside json_object is llama.cpp's form."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None
    value: Schema | None = Field(default=None, alias="schema")


class StructuredOutputs(WireModel):
    """vLLM's form: one of these."""

    refused: ClassVar[Refusals] = {
        "structural_tag": bool,
        "whitespace_pattern": bool,
        "disable_additional_properties": bool,
    }

    value: Schema | None = Field(default=None, alias="json")
    regex: Pattern | None = None
    choice: Words | None = None
    grammar: GrammarText | None = None
    json_object: bool = False


class StructureFields(WireModel):
    """All of them; a request may use one. Schemas are checked by server.generation.structure, off the event loop."""

    response_format: ResponseFormat = ResponseFormat()
    structured_outputs: StructuredOutputs = StructuredOutputs()
    guided_json: Schema | None = None
    guided_regex: Pattern | None = None
    guided_choice: Words | None = None
    guided_grammar: GrammarText | None = None
    json_schema: Schema | None = None
    grammar: GrammarText | None = None

    _names: dict[str, str] = PrivateAttr(default_factory=dict)

    def call_fields(self, names: Mapping[str, str]) -> None:
        """Have errors call fields as the client does, where the request was made of one of another API."""
        self._names.update(names)

    def called(self, field: str) -> str:
        """The name of a field in errors."""
        return self._names.get(field, field)
