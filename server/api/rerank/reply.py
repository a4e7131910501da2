"""Answers of /rerank and /score. Knows scores; knows nothing of workers or HTTP."""

from collections.abc import Sequence
from uuid import uuid4

from server.api.rerank.schemas import RerankList, RerankRequest, RerankResult, ScoredText, ScoreList
from server.wire.usage import InputUsage

DOCUMENTS_PER_UNIT = 100


def rerank_list(
    body: RerankRequest, scores: Sequence[float], best: Sequence[int], own_usage: InputUsage, name: str
) -> RerankList:
    """The answer with the results, best first."""
    return {
        "id": f"rerank-{uuid4().hex}",
        "object": "list",
        "model": name,
        "results": [_result(body, index, scores[index]) for index in best],
        "usage": own_usage,
        "meta": {"billed_units": {"search_units": -(-len(scores) // DOCUMENTS_PER_UNIT)}},
    }


def _result(body: RerankRequest, index: int, own_score: float) -> RerankResult:
    result: RerankResult = {"index": index, "relevance_score": own_score}
    if body.return_documents:
        result["document"] = {"text": body.documents[index]}
    return result


def scored_texts(body: RerankRequest, scores: Sequence[float], best: Sequence[int]) -> list[ScoredText]:
    """The short answer to requests that call the documents `texts`."""
    return [_scored_text(body, index, scores[index]) for index in best]


def score_list(scores: Sequence[float], own_usage: InputUsage, name: str) -> ScoreList:
    """The answer of /score: one score per pair."""
    return {
        "id": f"score-{uuid4().hex}",
        "object": "list",
        "model": name,
        "data": [{"object": "score", "index": index, "score": each} for index, each in enumerate(scores)],
        "usage": own_usage,
    }


def _scored_text(body: RerankRequest, index: int, own_score: float) -> ScoredText:
    entry: ScoredText = {"index": index, "score": own_score}
    if body.return_text:
        entry["text"] = body.texts[index]
    return entry
