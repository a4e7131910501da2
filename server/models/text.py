"""The text side of a model: tokenizer, chat template, and the form of its replies. Knows files; computes nothing."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from server.parsing.choose import ReplyFormat, choose

if TYPE_CHECKING:
    from engine.checkpoint.generation_defaults import GenerationDefaults
    from engine.embedding.sentence_settings import SentenceSettings
    from engine.text.chat import Template
    from engine.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ModelText:
    """The parts that turn messages into ids and ids into text, and the model's own defaults.

    chat_template: None for models that were not taught to chat
    sentence: for models that make a vector or a score of a text
    replies: how the model writes reasoning and tool calls
    """

    tokenizer: "Tokenizer"
    chat_template: "Template | None"
    defaults: "GenerationDefaults"
    sentence: "SentenceSettings"
    replies: ReplyFormat = field(default_factory=ReplyFormat)


def load_text(path: Path) -> ModelText:
    """Read a model's tokenizer and template. Raises CheckpointError. Takes a while: not for the event loop."""
    # Imported late: the server answers before tokenizers and Jinja are loaded.
    from engine.checkpoint.checkpoint import open_checkpoint  # noqa: PLC0415
    from engine.checkpoint.generation_defaults import read_generation_defaults  # noqa: PLC0415
    from engine.embedding.sentence_settings import read_sentence_settings  # noqa: PLC0415
    from engine.text.load import load_chat_template, load_tokenizer  # noqa: PLC0415
    from server.worker.contained_template import ContainedTemplate  # noqa: PLC0415

    checkpoint = open_checkpoint(path)
    tokenizer = load_tokenizer(checkpoint)
    template = load_chat_template(checkpoint, tokenizer, ContainedTemplate.started)
    source = "\n".join(template.sources) if template else ""
    replies = choose(source, lambda spelling: tokenizer.token_id(spelling) is not None)
    defaults, sentence = read_generation_defaults(checkpoint), read_sentence_settings(checkpoint)
    return ModelText(tokenizer, template, defaults, sentence, replies)
