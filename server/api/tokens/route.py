"""POST /tokenize, /detokenize and /apply-template, GET /tokenizer_info: text and tokens without a model's answer."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.errors import ParameterInvalid
from engine.text.tokenizer import Tokenizer
from server.api.chat.prompt import render_conversation
from server.api.shared.answer import json_answer, requested_model
from server.api.tokens.prompt import prompt_ids
from server.api.tokens.schemas import (
    DetokenizeRequest,
    PlainText,
    PlainTokens,
    RenderedPrompt,
    TemplateRequest,
    TokenIds,
    TokenizeRequest,
    TokenizerInfo,
    TokenPiece,
)
from server.http.security import LargeBodyRoute
from server.models.text import ModelText

router = APIRouter(route_class=LargeBodyRoute)


@router.post("/tokenize", response_model=TokenIds | PlainTokens)
async def tokenize(body: TokenizeRequest, request: Request) -> Response:
    """The token ids of a text or a conversation."""
    model = requested_model(request, body.model)
    return json_answer(await asyncio.to_thread(_tokens, await model.text(), body, model.known_context_length))


@router.post("/detokenize", response_model=PlainText)
async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
    """The text of token ids, control tokens spelled out."""
    text = await requested_model(request, body.model).text()
    if max(body.tokens, default=0) >= text.tokenizer.vocab_size:
        raise ParameterInvalid("tokens", f"tokens may hold ids below {text.tokenizer.vocab_size}.")
    decoded = await asyncio.to_thread(text.tokenizer.decode, body.tokens, skip_special_tokens=False)
    answer: PlainText = {"prompt": decoded, "content": decoded}
    return json_answer(answer)


@router.post("/apply-template", response_model=RenderedPrompt)
async def apply_template(body: TemplateRequest, request: Request) -> Response:
    """A conversation as the text that the model reads."""
    text = await requested_model(request, body.model).text()
    return json_answer({"prompt": await asyncio.to_thread(render_conversation, text, body)})


@router.get("/tokenizer_info")
async def tokenizer_info(request: Request, model: str = "") -> TokenizerInfo:
    """The tokenizer's special tokens and the chat template."""
    served = requested_model(request, model)
    text = await served.text()
    tokenizer = text.tokenizer
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "vocab_size": tokenizer.vocab_size,
        "model_max_length": served.known_context_length,
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token,
        "unk_token": tokenizer.unk_token,
        "chat_template": text.chat_template.sources[0] if text.chat_template else None,
    }


def _tokens(text: ModelText, body: TokenizeRequest, context_length: int | None) -> TokenIds | PlainTokens:
    tokenizer = text.tokenizer
    if body.content is not None:
        ids = prompt_ids(text, body)
        return {"tokens": [_piece(tokenizer, each) for each in ids] if body.with_pieces else ids}
    ids = prompt_ids(text, body)
    spelled = [tokenizer.token(each) or "" for each in ids] if body.return_token_strs else None
    return {"count": len(ids), "max_model_len": context_length, "tokens": ids, "token_strs": spelled}


def _piece(tokenizer: Tokenizer, token_id: int) -> TokenPiece:
    raw = tokenizer.token_bytes(token_id)
    try:
        return {"id": token_id, "piece": raw.decode()}
    except UnicodeDecodeError:
        return {"id": token_id, "piece": list(raw)}
