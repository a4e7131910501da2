"""The abilities of one model, for /models: read off the schemas and the code that honour it. Knows no HTTP."""

from collections.abc import Mapping
from typing import Any

from engine.text.fill_in import fill_in_tokens
from server.api.chat.schemas import ChatCompletionRequest
from server.api.completions.schemas import CompletionRequest
from server.api.decisions.schemas import DecisionRequest
from server.api.embeddings.schemas import EmbeddingRequest
from server.api.messages.schemas import MessageRequest
from server.api.models.schemas import Capabilities
from server.api.rerank.schemas import RerankRequest, ScoreRequest
from server.api.responses.schemas import ResponseRequest
from server.models.served_model import GENERATIVE_KINDS
from server.models.text import ModelText
from server.wire.base import WireModel

_WRITING: dict[str, type[WireModel]] = {"/v1/completions": CompletionRequest}
_CHATTING: dict[str, type[WireModel]] = {
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/responses": ResponseRequest,
    "/v1/messages": MessageRequest,
    "/v1/decisions": DecisionRequest,
}
_READING: dict[str, dict[str, type[WireModel]]] = {
    "embedder": {"/v1/embeddings": EmbeddingRequest},
    "classifier": {"/v1/rerank": RerankRequest, "/v1/score": ScoreRequest},
}
_OF_TOOLS = ("tools", "tool_choice", "parallel_tool_calls")


def capabilities(info: Mapping[str, Any], text: ModelText) -> Capabilities:
    """The abilities of a model. info: the fields of engine.ModelInfo"""
    kind, template = info["kind"], text.chat_template
    return {
        "completion": kind in GENERATIVE_KINDS,
        "chat": _chats(info, text),
        "tools": kind in GENERATIVE_KINDS and template is not None,
        "reasoning": template is not None and (text.replies.thinking is not None or text.replies.is_harmony),
        "fim": kind in GENERATIVE_KINDS and fill_in_tokens(text.tokenizer) is not None,
        "prompt_scores": bool(info.get("scores_prompts")),
        "embeddings": kind == "embedder",
        "rerank": kind == "classifier",
        "vision": False,
    }


def parameters(info: Mapping[str, Any], text: ModelText) -> dict[str, list[str]]:
    """By route, the fields of a request that are honoured for this model."""
    if info["kind"] in _READING:
        routes = _READING[info["kind"]]
    else:
        routes = {**_WRITING, **_CHATTING} if _chats(info, text) else _WRITING
    useless = _useless(capabilities(info, text), text)
    return {route: sorted(_honoured(body) - useless) for route, body in routes.items()}


def _chats(info: Mapping[str, Any], text: ModelText) -> bool:
    return info["kind"] in GENERATIVE_KINDS and (text.chat_template is not None or text.defaults.reads_source)


def _honoured(body: type[WireModel]) -> set[str]:
    return body.model_fields.keys() - body.refused.keys()


def _useless(can: Capabilities, text: ModelText) -> set[str]:
    """Fields that this model's requests are refused for."""
    useless = set() if can["tools"] else set(_OF_TOOLS)
    useless |= set() if can["fim"] else {"suffix"}
    useless |= set() if can["prompt_scores"] else {"prompt_logprobs"}
    return useless | (set() if text.sentence.dimensions is not None else {"dimensions"})
