"""The checks of a request before it is queued. Knows the model's limits; knows nothing of steps and arrays."""

from collections.abc import Iterable

from engine.errors import ContextLengthExceeded, MemoryExceeded, ParameterInvalid
from engine.requests import GenerationRequest
from engine.sampling.params import SamplingParams
from engine.settings import ModelInfo

_NOT_WITH_BEAMS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
    "logprob_ids",
)


def check_request(request: GenerationRequest, info: ModelInfo, end_ids: frozenset[int]) -> None:
    """Refuse a request whose prompt or parameters do not suit the model. end_ids: the tokens that end this request.

    Raises ContextLengthExceeded and ParameterInvalid.
    """
    prompt_tokens = len(request.prompt_ids)
    if not prompt_tokens:
        raise ParameterInvalid("prompt", "The prompt has no tokens.")
    is_scored = request.prompt_logprobs is not None
    least = 0 if is_scored and not request.sampling.max_tokens else 1
    # Scores of a prompt of which a part is left out would be those of another prompt.
    if prompt_tokens + (1 if info.endless else least) > info.context_length and (is_scored or not info.endless):
        raise ContextLengthExceeded(prompt_tokens, info.context_length)
    if is_scored and (not info.scores_prompts or request.sampling.num_beams > 1):
        raise ParameterInvalid("logprobs", "Prompts cannot be scored here: not with beams, nor by this kind of model.")
    room = info.room(prompt_tokens)
    if not least <= request.sampling.max_tokens <= room:
        raise ParameterInvalid(
            "max_tokens",
            f"max_tokens is {request.sampling.max_tokens}, but {prompt_tokens} prompt tokens leave room for "
            f"{least} to {room}.",
        )
    _check_beams(request.sampling)
    _check_ids("prompt", request.prompt_ids, info.vocab_size)
    _check_ids("allowed_token_ids", request.sampling.allowed_token_ids or (), info.vocab_size)
    _check_ids("logprob_ids", request.sampling.logprob_ids, info.vocab_size)
    _check_ids("bad_words", [token_id for each in request.sampling.bad_sequences for token_id in each], info.vocab_size)
    _check_ids("logit_bias", [token_id for token_id, _ in request.sampling.logit_bias], info.vocab_size)
    _check_allowed(request.sampling, end_ids)


def check_memory(needed_bytes: int, limit_bytes: int | None) -> None:
    """Refuse a request that needs more bytes for keys and values than there are. Raises MemoryExceeded."""
    if limit_bytes is not None and needed_bytes > limit_bytes:
        raise MemoryExceeded(needed_bytes, limit_bytes)


def _check_beams(sampling: SamplingParams) -> None:
    """Beams are ranked, not sampled: what would bend the ranking is refused instead of ignored."""
    plain = SamplingParams(max_tokens=1)
    if sampling.num_beams == 1:
        return
    if sampling.grammar is not None:
        param = sampling.grammar.param
        raise ParameterInvalid(param, f"{param} cannot be combined with num_beams = {sampling.num_beams}.")
    for param in _NOT_WITH_BEAMS:
        if getattr(sampling, param) != getattr(plain, param) and (param, getattr(sampling, param)) != (
            "temperature",
            0,
        ):
            raise ParameterInvalid(param, f"{param} cannot be combined with num_beams = {sampling.num_beams}.")


def _check_allowed(sampling: SamplingParams, end_ids: frozenset[int]) -> None:
    """Something must be left to sample: where nothing is, the sampler would have to break one of its rules."""
    if sampling.allowed_token_ids is None:
        return
    banned = {token_id for token_id, bias in sampling.logit_bias if bias == -float("inf")}
    banned |= {each[0] for each in sampling.bad_sequences if len(each) == 1}
    if set(sampling.allowed_token_ids) <= banned | (end_ids if sampling.min_tokens else set()):
        raise ParameterInvalid("allowed_token_ids", "allowed_token_ids allows only what other parameters forbid.")


def _check_ids(param: str, ids: Iterable[int], vocab_size: int) -> None:
    for token_id in ids:
        if not 0 <= token_id < vocab_size:
            raise ParameterInvalid(param, f"Token id {token_id} is outside the vocabulary of {vocab_size}.")
