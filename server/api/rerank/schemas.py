"""The wire types of /rerank and /score."""

from typing import Annotated, Any, Literal, NotRequired, Self

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import TypedDict  # pydantic asks for this one on Python 3.11

from server.api.embeddings.schemas import Truncation
from server.errors import InvalidRequest
from server.limits import MAX_PAIRS, MAX_TOKENS
from server.wire.base import Name, Text, WireModel
from server.wire.usage import InputUsage


def _text_of_document(value: Any) -> Any:
    """A document is a text, or an object that holds one."""
    return value.get("text") if isinstance(value, dict) else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | dict) else value


Document = Annotated[Text, BeforeValidator(_text_of_document)]
Documents = Annotated[list[Document], Field(min_length=1, max_length=MAX_PAIRS)]
Several = Annotated[Documents, BeforeValidator(_as_list)]


class PairFields(WireModel):
    """The fields that all requests about pairs of texts share.

    truncate_prompt_tokens: of a pair; its second text is cut. truncate: -1 for it
    raw_scores: the classifier's logits as they are
    """

    model: Name = ""
    truncate_prompt_tokens: Truncation | None = None
    truncate: bool = False
    raw_scores: bool = False


class RerankRequest(PairFields):
    """The body of POST /rerank. `texts` instead of `documents` asks for the short answer.

    top_n: 0 is all
    max_tokens_per_doc: longer documents are cut
    """

    query: Text
    documents: Documents = Field(default=[])
    texts: Documents = Field(default=[])
    top_n: int = Field(default=0, ge=0, le=MAX_TOKENS)
    return_documents: bool = False
    return_text: bool = False
    max_tokens_per_doc: int | None = Field(default=None, ge=1, le=MAX_TOKENS)

    @model_validator(mode="after")
    def _require_one_list(self) -> Self:
        if bool(self.documents) == bool(self.texts):
            raise InvalidRequest(
                "documents must be a list of 1 to 2048 texts; texts may stand for it.", param="documents"
            )
        return self


class ScoreRequest(PairFields):
    """The body of POST /score: one text against one or several others, or as many as there are others."""

    text_1: Several = Field(default=[])
    text_2: Several = Field(default=[])
    queries: Several = Field(default=[])
    documents: Several = Field(default=[])

    @model_validator(mode="after")
    def _require_pairs(self) -> Self:
        if bool(self.text_1) == bool(self.queries) or bool(self.text_2) == bool(self.documents):
            raise InvalidRequest("text_1 and text_2 must each be a text or a list of texts.", param="text_1")
        if len(self.firsts) not in (1, len(self.seconds)):
            raise InvalidRequest(
                f"text_1 holds {len(self.firsts)} texts and text_2 {len(self.seconds)}: one, or as many as those.",
                param="text_1",
            )
        return self

    @property
    def firsts(self) -> list[str]:
        """The texts that are compared."""
        return self.text_1 or self.queries

    @property
    def seconds(self) -> list[str]:
        """The texts that they are compared with."""
        return self.text_2 or self.documents


class DocumentText(TypedDict):
    """A document of the request."""

    text: str


class RerankResult(TypedDict):
    """A document's place in the request, and how well it fits the query."""

    index: int
    relevance_score: float
    document: NotRequired[DocumentText]


class BilledUnits(TypedDict):
    """Searches of up to 100 documents, as some clients count."""

    search_units: int


class RerankMeta(TypedDict):
    """The units that some clients look for."""

    billed_units: BilledUnits


class RerankList(TypedDict):
    """Documents, the best first."""

    id: str
    object: Literal["list"]
    model: str
    results: list[RerankResult]
    usage: InputUsage
    meta: RerankMeta


class ScoredText(TypedDict):
    """One entry of the short answer, the best first."""

    index: int
    score: float
    text: NotRequired[str]


class Score(TypedDict):
    """The score of one pair."""

    object: Literal["score"]
    index: int
    score: float


class ScoreList(TypedDict):
    """Scores in the order of the pairs."""

    id: str
    object: Literal["list"]
    model: str
    data: list[Score]
    usage: InputUsage
