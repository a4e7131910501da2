"""Request fields as the engine's parameters. One place for the meaning of each field of both APIs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.checkpoint.generation_defaults import GenerationDefaults
from engine.sampling.params import Grammar, SamplingParams
from engine.text.stop import StopStrings
from server.generation.continuation import TextRules
from server.limits import MAX_TOKENS
from server.models.text import ModelText
from server.wire.sampling import SamplingFields

if TYPE_CHECKING:
    from engine.text.tokenizer import Tokenizer

_SEARCH_FIELDS = (
    "num_beams",
    "length_penalty",
    "early_stopping",
    "no_repeat_ngram_size",
    "min_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
)
_FREE = {"num_beams": 1, "no_repeat_ngram_size": 0, "min_tokens": 0, "forced_eos_token_id": None}


def sampling_params(
    body: SamplingFields,
    text: ModelText,
    *,
    max_tokens: int | None,
    logprobs: int | None,
    grammar: Grammar | None = None,
) -> SamplingParams:
    """The parameters of the engine for a request. max_tokens of None or -1 is as much as the context holds."""
    defaults = text.defaults
    given = body.model_fields_set
    search = {name: getattr(body if name in given else defaults, name) for name in _SEARCH_FIELDS}
    if "num_beams" not in given and _draws(body):
        search["num_beams"] = 1  # who sets a temperature wants tokens drawn, not the checkpoint's own search
    if grammar is not None:
        # A checkpoint's own habits are for free text.
        search |= {name: plain for name, plain in _FREE.items() if name not in given}
    banned = ((token_id, -float("inf")) for token_id in defaults.banned_ids)
    return SamplingParams(
        max_tokens=MAX_TOKENS if max_tokens in (None, -1) else max_tokens or 0,
        temperature=_temperature(body, defaults, search["num_beams"]),
        top_k=max(body.top_k, 0),
        top_p=body.top_p or 1.0,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=(*((int(token_id), bias) for token_id, bias in body.logit_bias.items()), *banned),
        allowed_token_ids=None if body.allowed_token_ids is None else tuple(body.allowed_token_ids),
        bad_sequences=bad_sequences(body.bad_words, text.tokenizer),
        seed=body.seed,
        logprobs=logprobs,
        stop_token_ids=tuple(body.stop_token_ids),
        ignore_eos=body.ignore_eos,
        grammar=grammar,
        **search,
    )


def bad_sequences(words: Sequence[str], tokenizer: "Tokenizer") -> tuple[tuple[int, ...], ...]:
    """How words that are not wanted are spelled in tokens: within a text, and behind a space."""
    spellings = [spelling for word in words for spelling in (word, f" {word.lstrip()}")]
    sequences = (tokenizer.encode(each, add_special_tokens=False, parse_special=False) for each in spellings)
    return tuple(dict.fromkeys(tuple(each) for each in sequences if each))


def text_rules(
    body: SamplingFields, *, kept_ids: frozenset[int] = frozenset(), max_calls: int | None = None
) -> TextRules:
    """How the generated tokens become text. Takes a while where there are long stop strings.

    kept_ids, max_calls: of the model's reply format and the request's tools
    """
    return TextRules(
        stops=StopStrings(body.stop),
        include_stop=body.include_stop_str_in_output,
        skip_special_tokens=body.skip_special_tokens,
        min_tokens=body.min_tokens,
        kept_ids=kept_ids,
        max_calls=max_calls,
    )


def _draws(body: SamplingFields) -> bool:
    return "temperature" in body.model_fields_set and body.temperature > 0


def _temperature(body: SamplingFields, defaults: GenerationDefaults, num_beams: int) -> float:
    """The request's; where it says nothing, 1 for models that draw and 0 for those that search."""
    if body.top_p == 0:  # the smallest nucleus is the most likely token
        return 0.0
    if "temperature" in body.model_fields_set:
        return body.temperature
    return 1.0 if defaults.do_sample and num_beams == 1 else 0.0
