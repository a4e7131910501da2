"""The values that enter and leave the engine: a request, and the tokens that a step made of it. Imports no mlx."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from engine.sampling.params import SamplingParams

FinishReason = Literal["stop", "length"]
TokenIds = Sequence[int]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to continue.

    request_id: unique among the engine's live requests
    prompt_ids: token ids, used as given; at least one
    priority: requests of lower numbers are served first
    prompt_logprobs: k reports every prompt token but the first as a SampledToken with the k most likely in its place;
        all of the prompt is computed then, whatever the prefix cache has of it, and max_tokens may be 0; None is off
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    priority: int = 0
    prompt_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class SampledToken:
    """One generated token.

    logprob: natural log of its raw probability (temperature 1, before penalties); None unless asked for
    top_logprobs: (token id, logprob) of the most likely tokens, best first; empty unless asked for
    """

    token_id: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class PrefixNote:
    """Where a prompt differs from the earlier sequences in the prefix cache.

    cached_tokens: tokens of the prompt that the prefix cache had, from the beginning on
    stored_token: the next token in the prefix cache; None when there is none
    asked_token: the next token of the prompt; None when the cache had all that it could have
    """

    cached_tokens: int
    stored_token: int | None = None
    asked_token: int | None = None


@dataclass(frozen=True, slots=True)
class StepOutput:
    """The result of one step for one request. The last output of a request has finish_reason or error set.

    finish_reason: "stop" after an end token (which is reported as the last token), "length" at max_tokens
    cached_tokens: prompt tokens that were not computed again; set on the first output
    queued_seconds: from its arrival until it was first worked on; set on the first output
    prefix: set on the first output, where prefixes are kept
    prompt_tokens: scores of prompt tokens 1, 2 and so on where they were asked for, all before or with the first
        sampled token; long prompts may report them in several outputs, in order
    error: a sentence for the client when the step failed for this request
    error_kind: name of the error class, where the request itself is at fault
    """

    request_id: str
    token: SampledToken | None
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0
    queued_seconds: float = 0.0
    prefix: PrefixNote | None = None
    prompt_tokens: tuple[SampledToken, ...] = ()
    error: str | None = None
    error_kind: str = ""
