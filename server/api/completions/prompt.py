"""Prompts of /completions: as ids, as echoed text, with a suffix. Knows tokenizers; nothing of workers or HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.errors import ParameterInvalid
from engine.text.detokenizer import Detokenizer
from engine.text.fill_in import fill_in_ends, fill_in_prompt, fill_in_tokens
from engine.text.tokenizer import Tokenizer
from server.api.completions.schemas import CompletionRequest
from server.api.shared.sampling import sampling_params, text_rules
from server.errors import UnsupportedParameter
from server.generation.continuation import text_of
from server.generation.generation import GenerationPlan
from server.generation.reply_grammar import plain_grammar
from server.generation.structure import structure_of
from server.models.text import ModelText
from server.wire.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Echo:
    """The prompt as `echo` puts it before a continuation.

    offsets: where in the text each token of the prompt begins, in characters; empty unless asked for
    first_token, first_id: the token that has no score
    """

    text: str = ""
    offsets: tuple[int, ...] = ()
    first_token: str = ""
    first_id: int = 0


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as ids, and what `echo` makes of it."""

    ids: tuple[int, ...]
    echo: Echo


def encode_prompts(text: ModelText, body: CompletionRequest, context_length: int) -> list[EncodedPrompt]:
    """Every prompt as ids. Given ids are used as they are, within the vocabulary. Takes a while."""
    return [_encoded(text, body, prompt, context_length) for prompt in body.prompt]


def _encoded(text: ModelText, body: CompletionRequest, prompt: Prompt, context_length: int) -> EncodedPrompt:
    ids = _with_suffix(text, prompt, body.suffix) if body.suffix else _encode(text, prompt, body.add_special_tokens)
    kept = ids[-_kept_tokens(body, context_length) :] if body.truncate_prompt_tokens is not None else ids
    given = prompt if len(kept) == len(ids) else list(kept)
    return EncodedPrompt(kept, _echo(text.tokenizer, body, given, kept) if body.echo else Echo())


def _kept_tokens(body: CompletionRequest, context_length: int) -> int:
    asked = body.truncate_prompt_tokens or -1
    if asked != -1:
        return asked
    wanted = context_length if body.max_tokens in (None, -1) else body.max_tokens or 0
    return context_length - min(wanted, context_length // 2)


def _encode(text: ModelText, prompt: Prompt, add_special_tokens: bool) -> tuple[int, ...]:
    tokenizer = text.tokenizer
    if isinstance(prompt, str):
        return tuple(tokenizer.encode(prompt, add_special_tokens=add_special_tokens)) or _start_of_text(text)
    if max(prompt) >= tokenizer.vocab_size:
        raise ParameterInvalid(
            "prompt", f"prompt holds the token id {max(prompt)}; this model knows {tokenizer.vocab_size} tokens."
        )
    return tuple(prompt)


def _start_of_text(text: ModelText) -> tuple[int, ...]:
    """An empty prompt still needs a token to begin from."""
    tokenizer = text.tokenizer
    start = (tokenizer.bos_token_id,) if tokenizer.bos_token_id is not None else tokenizer.eos_token_ids[:1]
    if not start:
        raise ParameterInvalid("prompt", "prompt is empty, and this model has no token to begin a text with.")
    return start


def _with_suffix(text: ModelText, prompt: Prompt, suffix: str) -> tuple[int, ...]:
    """Neither text can hold control tokens: code that spells them is code."""
    tokenizer = text.tokenizer
    tokens = fill_in_tokens(tokenizer)
    if tokens is None:
        raise UnsupportedParameter("suffix", "this model was not trained to fill in the middle of a text")
    before = _plain(tokenizer, prompt) if isinstance(prompt, str) else _encode(text, prompt, add_special_tokens=False)
    return fill_in_prompt(tokenizer, tokens, before, _plain(tokenizer, suffix))


def _plain(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False, parse_special=False)


def _echo(tokenizer: Tokenizer, body: CompletionRequest, given: Prompt, ids: Sequence[int]) -> Echo:
    skips = body.skip_special_tokens and not isinstance(given, str)
    whole = given if isinstance(given, str) else tokenizer.decode(ids, skip_special_tokens=skips)
    if body.logprobs is None:
        return Echo(whole)
    offsets = _offsets(tokenizer, ids, whole, skips_special=skips)
    return Echo(whole, offsets, text_of(tokenizer.token_bytes(ids[0])), ids[0])


def _offsets(tokenizer: Tokenizer, ids: Sequence[int], whole: str, *, skips_special: bool) -> tuple[int, ...]:
    """Where each token begins; a token put before the given text begins where that does."""
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skips_special)
    begins, place = [], 0
    for token_id in ids:
        begins.append(place)
        place += len(detokenizer.push(token_id))
    place += len(detokenizer.finish())
    added = place - len(whole)
    return tuple(min(max(begin - added, 0), len(whole)) for begin in begins)


def completion_plan(text: ModelText, body: CompletionRequest, prompts: tuple[tuple[int, ...], ...]) -> GenerationPlan:
    """Choices of every prompt, as the request asks for them. Raises GrammarInvalid. Takes a while."""
    # Choices are judged by their scores, so these are needed even if nobody reads them.
    logprobs = 0 if body.logprobs is None and body.num_tries > body.n else body.logprobs
    grammar = plain_grammar(text, structure_of(body))
    sampling = sampling_params(body, text, max_tokens=_max_tokens(text, body), logprobs=logprobs, grammar=grammar)
    if body.suffix:
        ends = (*sampling.stop_token_ids, *fill_in_ends(text.tokenizer))
        sampling = replace(sampling, stop_token_ids=tuple(dict.fromkeys(ends)))
    return GenerationPlan(
        prompts=prompts,
        num_choices=body.num_tries,
        sampling=sampling,
        rules=text_rules(body),
        param="prompt",
        priority=body.priority,
        prompt_logprobs=body.scored_rivals,
    )


def _max_tokens(text: ModelText, body: CompletionRequest) -> int | None:
    """The request's; where it says nothing, as many as a model that reads a source is made for, else the API's 16."""
    unset = "max_tokens" not in body.model_fields_set
    return text.defaults.max_new_tokens if unset and text.defaults.reads_source else body.max_tokens
