"""Texts to measure with and to learn from: a file, or the sample that comes with Bramley; cut into windows of tokens.

The samples are parts of William Morris's "News from Nowhere" (1890), which is in the public domain.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.checkpoint.folder import open_file
from engine.errors import CheckpointError
from engine.evaluation.errors import TextUnusable
from engine.text.tokenizer import Tokenizer

MAX_TEXT_BYTES = 256 << 20
Sample = Literal["calibration", "held_out"]


@dataclass(frozen=True, slots=True)
class Text:
    """A text and what it is called. `name` is a bare file name, or that of a sample."""

    name: str
    content: str


def read_text(path: Path | None, sample: Sample) -> Text:
    """The text of a file in UTF-8; without a file, a sample.

    sample: "calibration" is to learn from (61 kB), "held_out" to measure with (29 kB): other chapters of the same book
    Raises TextUnusable.
    """
    own = Path(__file__).parent / "samples" / f"{sample}.txt"
    name = f"sample ({sample.replace('_', ' ')})" if path is None else path.name
    try:
        with open_file(own if path is None else path) as file:
            data = file.read(MAX_TEXT_BYTES + 1)
    except CheckpointError as error:
        raise TextUnusable(name, str(error).partition(": ")[2]) from None
    if len(data) > MAX_TEXT_BYTES:
        raise TextUnusable(name, f"it is larger than {MAX_TEXT_BYTES} bytes")
    try:
        return Text(name, data.decode())
    except UnicodeDecodeError:
        raise TextUnusable(name, "it is not UTF-8") from None


def cut_windows(text: Text, tokenizer: Tokenizer, length: int, max_tokens: int | None = None) -> list[list[int]]:
    """Windows that follow one another without overlap, of `length` tokens each; the last may be shorter.

    Each begins with the model's own beginning-of-text token, where it expects one.
    max_tokens: only so many of the text's tokens
    Raises TextUnusable when there are not even two tokens.
    """
    marked = tokenizer.encode("", add_special_tokens=True)
    start = [tokenizer.bos_token_id] if marked[:1] == [tokenizer.bos_token_id] else []
    prefix = [each for each in start if each is not None]
    ids = tokenizer.encode(text.content, add_special_tokens=False, parse_special=False)[:max_tokens]
    step = length - len(prefix)
    windows = [[*prefix, *ids[first : first + step]] for first in range(0, len(ids), step)]
    windows = [window for window in windows if len(window) > 1]
    if not windows:
        raise TextUnusable(text.name, f"it has {len(ids)} tokens")
    return windows


def num_scored(windows: Sequence[Sequence[int]]) -> int:
    """Tokens that are predicted: all but the first of each window."""
    return sum(len(window) - 1 for window in windows)
