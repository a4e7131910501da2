"""The checkpoint's own settings of generation, for requests that do not say. Imports no mlx.

Encoder-decoder models are trained for one task and published with the search that suits it; theirs is followed. Models
that chat are asked by people who set what they want: nothing of theirs is taken over but their end tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine.checkpoint.checkpoint import Checkpoint
from engine.errors import CheckpointUnsupported

_MAX_BEAMS = 64
_MAX_NGRAM = 64


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """Fields of SamplingParams under their names there, and three more.

    reads_source: the prompt is read by an encoder, and the answer begins afresh
    do_sample: tokens are drawn; else the most likely are taken
    max_new_tokens: None goes on as far as the context allows
    banned_ids: tokens that never come
    """

    reads_source: bool = False
    do_sample: bool = True
    max_new_tokens: int | None = None
    banned_ids: tuple[int, ...] = ()
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    no_repeat_ngram_size: int = 0
    min_tokens: int = 0
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None


def read_generation_defaults(checkpoint: Checkpoint) -> GenerationDefaults:
    """From generation_config.json, and config.json where older checkpoints keep them. Raises CheckpointUnsupported."""
    if checkpoint.config.get("is_encoder_decoder") is not True:
        return GenerationDefaults()
    values = {**checkpoint.config, **checkpoint.generation_config}
    max_length = _count(values, "max_length", 0, 1 << 24)
    return GenerationDefaults(
        reads_source=True,
        do_sample=values.get("do_sample") is True,
        max_new_tokens=_count(values, "max_new_tokens", 0, 1 << 24) or (max_length - 1 if max_length > 20 else None),
        banned_ids=_single_ids(values.get("bad_words_ids")),
        num_beams=_count(values, "num_beams", 1, _MAX_BEAMS) or 1,
        length_penalty=_number(values, "length_penalty", 1.0),
        early_stopping=_early_stopping(values.get("early_stopping")),
        no_repeat_ngram_size=_count(values, "no_repeat_ngram_size", 0, _MAX_NGRAM),
        min_tokens=_count(values, "min_new_tokens", 0, 1 << 24) or max(_count(values, "min_length", 0, 1 << 24) - 1, 0),
        forced_bos_token_id=_optional_id(values, "forced_bos_token_id"),
        forced_eos_token_id=_optional_id(values, "forced_eos_token_id"),
    )


def _count(values: Mapping[str, Any], key: str, default: int, most: int) -> int:
    value = values.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise CheckpointUnsupported(key, value, f"a whole number up to {most}")
    return value


def _number(values: Mapping[str, Any], key: str, default: float) -> float:
    value = values.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not -100 <= value <= 100:
        raise CheckpointUnsupported(key, value, "a number from -100 to 100")
    return float(value)


def _optional_id(values: Mapping[str, Any], key: str) -> int | None:
    """A token id; of a list, as some checkpoints hold one, the first."""
    value = values.get(key)
    value = value[0] if isinstance(value, list) and value else value
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise CheckpointUnsupported(key, value, "a token id")
    return value


def _early_stopping(value: Any) -> bool | Literal["never"]:
    if value == "never":
        return "never"
    if value not in (None, True, False):
        raise CheckpointUnsupported("early_stopping", value, "true, false, never")
    return bool(value)


def _single_ids(value: Any) -> tuple[int, ...]:
    """`bad_words_ids` that are one token each; a longer word cannot be banned token by token."""
    if value is None:
        return ()
    if not isinstance(value, list) or any(not isinstance(word, list) or len(word) != 1 for word in value):
        raise CheckpointUnsupported("bad_words_ids", value, "lists of one token id each")
    return tuple(int(word[0]) for word in value)
