"""One HTTP request's texts, from strings to vectors or scores. Knows workers and tokenizers; knows nothing of HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.embedding.encoding import EncodingRequest, TokenInput
from engine.errors import ContextLengthExceeded, ParameterInvalid
from engine.text.tokenizer import Tokenizer
from server.models.served_model import ServedModel
from server.models.text import ModelText
from server.wire.prompts import Prompt
from server.wire.usage import InputUsage

# How requests call a text, and how checkpoints call the prompt for it; the first that there is.
_PROMPT_NAMES = {
    "query": ("query", "search_query"),
    "search_query": ("search_query", "query"),
    "document": ("document", "passage", "search_document"),
    "passage": ("passage", "document", "search_document"),
    "search_document": ("search_document", "document", "passage"),
}


@dataclass(frozen=True, slots=True)
class LengthLimits:
    """How long inputs may be, in tokens.

    context_length: of the model; what is longer is refused
    cut_to: inputs are cut to it before; None cuts none
    """

    context_length: int
    cut_to: int | None = None


def limits(context_length: int, truncate_prompt_tokens: int | None, *, truncate: bool) -> LengthLimits:
    """As a request asks. Raises ParameterInvalid for a cut to nothing."""
    if truncate_prompt_tokens == 0:
        raise ParameterInvalid("truncate_prompt_tokens", "truncate_prompt_tokens must be -1, or 1 at least.")
    asked = -1 if truncate_prompt_tokens is None and truncate else truncate_prompt_tokens
    if asked is None:
        return LengthLimits(context_length)
    return LengthLimits(context_length, context_length if asked == -1 else min(asked, context_length))


def prompt_for(text: ModelText, input_type: str | None, prompt_name: str | None) -> str:
    """The prompt before every text. Raises ParameterInvalid for a prompt_name that the model does not have."""
    prompts = text.sentence.prompts
    if prompt_name is not None:
        if prompt_name not in prompts:
            known = f"it has {', '.join(sorted(prompts))}" if prompts else "it has none"
            raise ParameterInvalid("prompt_name", f"This model has no prompt of that name: {known}.")
        return prompts[prompt_name]
    names = _PROMPT_NAMES.get(input_type or "", (input_type or "",))
    found = next((name for name in names if name in prompts), text.sentence.default_prompt)
    return "" if found is None else prompts[found]


def encode_inputs(
    text: ModelText, inputs: Sequence[Prompt], prompt: str, limits: LengthLimits
) -> tuple[TokenInput, ...]:
    """Every input as ids. Given ids are used as they are. Raises ContextLengthExceeded."""
    prompt_length = 0 if text.sentence.pools_prompt else _prompt_length(text.tokenizer, prompt)
    return tuple(
        _encode(text, each, prompt, prompt_length, limits) if isinstance(each, str) else _given(each, limits)
        for each in inputs
    )


def encode_pairs(
    text: ModelText, pairs: Sequence[tuple[str, str]], limits: LengthLimits, second_tokens: int | None = None
) -> tuple[TokenInput, ...]:
    """Every pair as the model reads it. second_tokens: the second text is cut to it. Raises ContextLengthExceeded."""
    return tuple(_encode_pair(text.tokenizer, *pair, limits, second_tokens) for pair in pairs)


async def encode(model: ServedModel, request: EncodingRequest) -> list[bytes]:
    """The vectors or scores of the inputs, in their order: float32 in little-endian order."""
    return [output.values for output in await model.supervisor.encode(request)]


def floats(values: bytes) -> list[float]:
    """The numbers of a vector."""
    return list(memoryview(values).cast("f"))


def usage(inputs: Sequence[TokenInput]) -> InputUsage:
    """Tokens read, special ones included."""
    num_tokens = sum(len(each.ids) for each in inputs)
    return {"prompt_tokens": num_tokens, "total_tokens": num_tokens}


def _encode(text: ModelText, given: str, prompt: str, prompt_length: int, limits: LengthLimits) -> TokenInput:
    given = prompt + given
    given = given.lower() if text.sentence.lowercase else given
    ids = text.tokenizer.encode(given)
    if limits.cut_to is not None and len(ids) > limits.cut_to:
        own = text.tokenizer.encode(given, add_special_tokens=False)
        ids, _ = _shortened(ids, [], own, len(own) - (len(ids) - limits.cut_to))
    _check_length(len(ids), limits, "input")
    return TokenInput(tuple(ids), prompt_length=prompt_length)


def _given(ids: Sequence[int], limits: LengthLimits) -> TokenInput:
    ids = ids[: limits.cut_to]
    _check_length(len(ids), limits, "input")
    return TokenInput(tuple(ids))


def _encode_pair(
    tokenizer: Tokenizer, first: str, second: str, limits: LengthLimits, second_tokens: int | None
) -> TokenInput:
    ids, types = tokenizer.encode_pair(first, second)
    too_many = max(len(ids) - limits.cut_to, 0) if limits.cut_to is not None else 0
    if too_many or second_tokens is not None:
        own = tokenizer.encode(second, add_special_tokens=False)
        if too_many and too_many >= len(own):
            raise ParameterInvalid("query", f"query leaves no room for another text within {limits.cut_to} tokens.")
        kept = min(len(own) - too_many, len(own) if second_tokens is None else second_tokens)
        ids, types = _shortened(ids, types, own, kept)
    _check_length(len(ids), limits, "query")
    return TokenInput(tuple(ids), tuple(types))


def _check_length(num_tokens: int, limits: LengthLimits, param: str) -> None:
    if num_tokens > limits.context_length:
        raise ContextLengthExceeded(num_tokens, limits.context_length, param)


def _prompt_length(tokenizer: Tokenizer, prompt: str) -> int:
    """Tokens at a text's beginning that are the prompt's, with the special ones before it."""
    if not prompt:
        return 0
    ids = tokenizer.encode(prompt)
    return len(ids) - (ids[-1] in tokenizer.special_ids)


def _shortened(ids: list[int], types: list[int], part: list[int], kept: int) -> tuple[list[int], list[int]]:
    """Keep the first tokens of the last text, `part`, and all special tokens around it."""
    starts = range(len(ids) - len(part), -1, -1)
    start = next((start for start in starts if ids[start : start + len(part)] == part), None)
    if start is None or kept < 0:
        raise ParameterInvalid("truncate_prompt_tokens", "This model's inputs cannot be cut to so few tokens.")
    cut = slice(start + kept, start + len(part))
    return ids[: cut.start] + ids[cut.stop :], types[: cut.start] + types[cut.stop :]
