"""Sampling parameters of one request. Plain values: imports no mlx, so the server may build them."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Grammar:
    """The form that a text must have.

    lark: rules in llguidance's form of Lark, of which `start` is the whole text
    param: the request's field that it comes from, for errors
    parts: grammars of their own, by the names under which the rules refer to them: `@name`
    """

    lark: str
    param: str = "grammar"
    parts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Everything that shapes one sequence's continuation. Lengths are tokens.

    max_tokens: upper bound of generated tokens, at least 1
    temperature: 0 takes the most likely token and uses no randomness
    top_k: 0 is off; top_p: 1 is off; min_p: 0 is off
    repetition_penalty: divides positive and multiplies negative logits of every token seen in prompt or output
        (Keskar et al. 2019, arXiv:1909.05858); 1 is off
    presence_penalty, frequency_penalty: subtracted from logits of generated tokens, once and per occurrence
    logit_bias: (token id, addend) pairs
    allowed_token_ids: all others are never sampled; None allows any
    bad_sequences: sequences of token ids that the output never has
    seed: None draws one
    logprobs: None is off; k reports the chosen token and the k most likely
    logprob_ids: reports these in their order instead of the most likely; logprobs has to be on
    min_tokens: no end token is sampled before this many generated tokens
    stop_token_ids: end tokens besides the model's own
    ignore_eos: the model's own end tokens do not stop it
    num_beams: more than 1 searches with that many beams instead of sampling, and reports all tokens at the end
    length_penalty: a finished beam's score is divided by its length to this power
    early_stopping: True stops at num_beams finished beams, False when no better one is likely, "never" when impossible
    no_repeat_ngram_size: no sequence of this many tokens occurs twice in the output; 0 is off
    forced_bos_token_id, forced_eos_token_id: the first token, and the last one at max_tokens
    grammar: the text follows it, and ends where it ends, even with ignore_eos; None is off
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    bad_sequences: tuple[tuple[int, ...], ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    logprob_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    no_repeat_ngram_size: int = 0
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    grammar: Grammar | None = None
