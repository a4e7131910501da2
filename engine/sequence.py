"""The values that enter and leave the engine: a request, and what a step made of it. Imports no mlx."""

from dataclasses import dataclass
from typing import Literal

from engine.sampling.params import SamplingParams

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to continue.

    request_id: unique among the engine's live requests
    prompt_ids: token ids, used as given; at least one
    priority: who comes first when not all can be served; lower before higher
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    priority: int = 0


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
class StepOutput:
    """What one step made of one request. The last output of a request has finish_reason or error set.

    finish_reason: "stop" after an end token (which is reported as the last token), "length" at max_tokens
    cached_tokens: prompt tokens that were not computed again; set on the first output
    error: a sentence for the client when the step failed for this request
    """

    request_id: str
    token: SampledToken | None
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0
    error: str | None = None
