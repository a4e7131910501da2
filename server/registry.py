"""Which models are served, under which names. Knows the text side of a model and its worker's handle, not HTTP."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.errors import ModelNotFound, WrongModelKind
from server.parsing.choose import ReplyFormat, choose
from server.supervisor import Health, Supervisor

if TYPE_CHECKING:
    from engine.generation_defaults import GenerationDefaults
    from engine.sentence_settings import SentenceSettings
    from engine.text.chat_template import ChatTemplate
    from engine.text.tokenizer import Tokenizer

WRITING_KINDS = ("decoder", "encoder-decoder")


@dataclass(frozen=True, slots=True)
class ModelText:
    """What turns messages into ids and ids into text, and how the model wants to be used.

    chat_template: None for models that were not taught to chat
    sentence: for models that make a vector or a score of a text
    replies: how the model writes reasoning and tool calls
    """

    tokenizer: "Tokenizer"
    chat_template: "ChatTemplate | None"
    defaults: "GenerationDefaults"
    sentence: "SentenceSettings"
    replies: ReplyFormat = field(default_factory=ReplyFormat)


def load_text(path: Path) -> ModelText:
    """Read a model's tokenizer and template. Raises CheckpointError. Takes a while: not for the event loop."""
    # Imported late: the server answers before tokenizers and Jinja are loaded.
    from engine.checkpoint.checkpoint import open_checkpoint  # noqa: PLC0415
    from engine.generation_defaults import read_generation_defaults  # noqa: PLC0415
    from engine.sentence_settings import read_sentence_settings  # noqa: PLC0415
    from engine.text.load import load_chat_template, load_tokenizer  # noqa: PLC0415

    checkpoint = open_checkpoint(path)
    tokenizer = load_tokenizer(checkpoint)
    template = load_chat_template(checkpoint, tokenizer)
    source = "\n".join(template.sources) if template else ""
    replies = choose(source, lambda spelling: tokenizer.token_id(spelling) is not None)
    defaults, sentence = read_generation_defaults(checkpoint), read_sentence_settings(checkpoint)
    return ModelText(tokenizer, template, defaults, sentence, replies)


class ServedModel:
    """A model under its name: the text side in this process, the numbers in the supervised one.

    created: Unix seconds
    context_length: tokens; an upper bound on the model's own
    """

    def __init__(
        self,
        name: str,
        path: Path,
        supervisor: Supervisor,
        *,
        aliases: Iterable[str] = (),
        created: int = 0,
        context_length: int | None = None,
        read_text: Callable[[Path], ModelText] = load_text,
    ) -> None:
        self.name = name
        self.aliases = tuple(aliases)
        self.supervisor = supervisor
        self.created = created
        self._path = path
        self._context_length = context_length
        self._read_text = read_text
        self._text: asyncio.Task[ModelText] | None = None

    async def text(self) -> ModelText:
        """Tokenizer and template, read once, in a thread; a failure is tried again by the next request."""
        if self._text is None or (self._text.done() and (self._text.cancelled() or self._text.exception())):
            self._text = asyncio.create_task(asyncio.to_thread(self._read_text, self._path))
        return await asyncio.shield(self._text)

    async def expect(self, *kinds: str) -> Mapping[str, Any]:
        """The fields of engine.ModelInfo once the model is loaded. Raises WrongModelKind for none of these kinds."""
        info = await self.supervisor.ready()
        if info["kind"] not in kinds:
            raise WrongModelKind(self.name, info["kind"])
        return info

    async def context_length(self) -> int:
        """Tokens of prompt and answer together, once the model is loaded."""
        own: int = (await self.supervisor.ready())["context_length"]
        return self._capped(own)

    @property
    def endless(self) -> bool:
        """Whether prompt and answer may be longer than the context; known once the model is loaded."""
        info = self.supervisor.info
        return info is not None and bool(info.get("endless"))

    @property
    def known_context_length(self) -> int | None:
        """The same without waiting; None while the model is not loaded."""
        info = self.supervisor.info
        return None if info is None else self._capped(info["context_length"])

    def _capped(self, own: int) -> int:
        return own if self._context_length is None else min(own, self._context_length)


class Registry:
    """The served models; the first is the default."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self.models = tuple(models)
        aliases = {alias: model for model in reversed(models) for alias in model.aliases}
        self._by_name = aliases | {model.name: model for model in models}

    def find(self, name: str) -> ServedModel:
        """The model of that name or alias, or the default for no name. Raises ModelNotFound."""
        if not name:
            return self.models[0]
        model = self._by_name.get(name)
        if model is None:
            raise ModelNotFound(tuple(each.name for each in self.models))
        return model

    def start(self) -> None:
        """Begin to listen to the default model's worker. The others wait until somebody asks for them."""
        self.models[0].supervisor.start()

    def health(self) -> Health:
        """The default model's health: what makes this server useful."""
        return self.models[0].supervisor.health

    async def close(self) -> None:
        """End all workers."""
        await asyncio.gather(*(model.supervisor.close() for model in self.models))
