"""Request fields as the engine's parameters. One place for the meaning of each field of both APIs."""

from engine.sampling.params import SamplingParams
from server.continuation import TextRules
from server.schemas.base import MAX_TOKENS
from server.schemas.sampling import SamplingFields


def sampling_params(body: SamplingFields, *, max_tokens: int | None, logprobs: int | None) -> SamplingParams:
    """What the engine is asked for. max_tokens of None or -1 is as much as the context holds."""
    return SamplingParams(
        max_tokens=MAX_TOKENS if max_tokens in (None, -1) else max_tokens or 0,
        # The smallest nucleus is the most likely token.
        temperature=body.temperature if body.top_p > 0 else 0.0,
        top_k=max(body.top_k, 0),
        top_p=body.top_p or 1.0,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=tuple((int(token_id), bias) for token_id, bias in body.logit_bias.items()),
        seed=body.seed,
        logprobs=logprobs,
        min_tokens=body.min_tokens,
        stop_token_ids=tuple(body.stop_token_ids),
        ignore_eos=body.ignore_eos,
    )


def text_rules(body: SamplingFields) -> TextRules:
    """How the generated tokens become text."""
    return TextRules(
        stops=tuple(dict.fromkeys(body.stop)),
        include_stop=body.include_stop_str_in_output,
        skip_special_tokens=body.skip_special_tokens,
        min_tokens=body.min_tokens,
    )
