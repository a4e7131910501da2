"""The wire types of /decisions."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # pydantic asks for this one on Python 3.11

from server.api.responses.schemas import ResponseUsage
from server.limits import MAX_LEVELS, MAX_MESSAGES, MAX_OPTIONS, MAX_PARTS, MAX_QUESTIONS
from server.wire.base import Name, Text, WireModel
from server.wire.tools import BoundedObject

# Parts are read by server.decision_prompt.
Instructions = Text | Annotated[list[BoundedObject], Field(min_length=1, max_length=MAX_PARTS)]
Value = Name | bool


class Predicate(WireModel):
    """How likely is it that this is true of the input?"""

    type: Literal["predicate"]
    instructions: Instructions
    name: Name | None = None


class Option(WireModel):
    """One of the answers to choose from."""

    value: Value
    description: Text = ""


def _all_different(options: list[Option]) -> list[Option]:
    if len({(type(option.value), option.value) for option in options}) < len(options):
        raise PydanticCustomError("invalid_value", "has two choices of the same value")
    return options


class ChoiceQuestion(WireModel):
    """Which of these is it?"""

    type: Literal["choice"]
    instructions: Instructions
    choices: Annotated[list[Option], AfterValidator(_all_different)] = Field(min_length=2, max_length=MAX_OPTIONS)
    name: Name | None = None


class Level(WireModel):
    """One step of a scale."""

    label: Name
    description: Text = ""


class ScoreQuestion(WireModel):
    """How far up this scale is it? Levels come in order, the lowest first."""

    type: Literal["score"]
    instructions: Instructions
    levels: list[Level] = Field(min_length=2, max_length=MAX_LEVELS)
    name: Name | None = None


Question = Annotated[Predicate | ChoiceQuestion | ScoreQuestion, Field(discriminator="type")]


class DecisionRequest(WireModel):
    """The body of POST /decisions."""

    model: Name = ""
    input: Text | Annotated[list[BoundedObject], Field(min_length=1, max_length=MAX_MESSAGES)]
    questions: list[Question] = Field(min_length=1, max_length=MAX_QUESTIONS)


class PredicateAnswer(TypedDict):
    """How likely it is."""

    type: Literal["predicate"]
    name: str | None
    probability: float


class ValueProbability(TypedDict):
    """How likely one choice is."""

    value: str | bool
    probability: float


class ChoiceAnswer(TypedDict):
    """The likeliest choice, whose probability is the confidence; and all of them in the question's order."""

    type: Literal["choice"]
    name: str | None
    choice: str | bool
    confidence: float
    probabilities: list[ValueProbability]


class LevelProbability(TypedDict):
    """How likely one level is; levels count from 0."""

    value: int
    label: str
    probability: float


class ScoreAnswer(TypedDict):
    """The mean of the levels by their probabilities; the confidence is that of the likeliest one."""

    type: Literal["score"]
    name: str | None
    score: float
    confidence: float
    probabilities: list[LevelProbability]


class Decision(TypedDict):
    """All answers in the order of the questions."""

    model: str
    answers: list[PredicateAnswer | ChoiceAnswer | ScoreAnswer]
    usage: ResponseUsage
