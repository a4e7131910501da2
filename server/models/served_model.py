"""A model that is served: its text side in this process, the handle on its worker, the memory it takes. Not HTTP."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

from server.errors import WrongModelKind
from server.models.footprint import Measured, Measurements, PrefillRate, Share, guess, resident_bytes, share
from server.models.residency import Residency, hold
from server.models.text import ModelText, load_text
from server.store.stored_model import StoredModel
from server.worker.supervisor import Supervisor

GENERATIVE_KINDS = ("decoder", "encoder-decoder")
log = logging.getLogger("bramley.residency")
# What a batch of texts takes in a model that keeps no keys and values.
_EMBEDDER_BYTES = 128 * 10**6


class ServedModel:
    """A model under its name: the text side in this process, the numbers in the supervised one.

    pinned: stays in memory once it is there
    context_length: tokens; an upper bound on the model's own
    """

    def __init__(
        self,
        stored: StoredModel,
        supervisor: Supervisor,
        residency: Residency,
        measurements: Measurements,
        *,
        aliases: Iterable[str] = (),
        pinned: bool = False,
        context_length: int | None = None,
        read_text: Callable[[Path], ModelText] = load_text,
    ) -> None:
        self.stored = stored
        self.name = stored.id
        self.aliases = tuple(dict.fromkeys(each for each in (*aliases, *stored.aliases) if each != stored.id))
        self.pinned = pinned
        self.supervisor = supervisor
        self.created = stored.created
        self.prefill_rate = PrefillRate()
        self._residency = residency
        self._measurements = measurements
        # What changes how much memory the same files take.
        self._run = f"{stored.id} {supervisor.engine.bits} {supervisor.engine.kernels}"
        self._known = measurements.get(self._run, stored.num_bytes)
        self._share: Share | None = None
        self._wanted = supervisor.engine
        self._began = 0.0
        self._context_length = context_length
        self._read_text = read_text
        self._text: asyncio.Task[ModelText] | None = None
        supervisor.on_end = self._ended

    async def text(self) -> ModelText:
        """Tokenizer and template, read once, in a thread; a failure is tried again by the next request."""
        if self._text is None or (self._text.done() and (self._text.cancelled() or self._text.exception())):
            self._text = asyncio.create_task(asyncio.to_thread(self._read_text, self.stored.path))
        return await asyncio.shield(self._text)

    async def ready(self) -> Mapping[str, Any]:
        """The fields of engine.ModelInfo once the model is loaded; it stays so until the work at hand ends.

        Raises ModelTooLarge, ModelLoading, ModelUnavailable and WorkerDied.
        """
        await hold(self._residency, self)
        return await self.supervisor.ready()

    async def expect(self, *kinds: str) -> Mapping[str, Any]:
        """The same. Raises WrongModelKind for none of these kinds."""
        info = await self.ready()
        if info["kind"] not in kinds:
            raise WrongModelKind(self.name, info["kind"])
        return info

    async def context_length(self) -> int:
        """Tokens of prompt and answer together, once the model is loaded."""
        own: int = (await self.ready())["context_length"]
        return self._capped(own)

    def progress(self) -> str:
        """What a request waits for before its prompt can be prefilled, in words."""
        health = self.supervisor.health
        if self._residency.num_waiting(self):
            return "waiting for memory"
        if health.state != "loading":
            return "preparing the prompt"
        return f"loading {self.name}, {health.done_bytes}/{health.total_bytes} bytes"

    @property
    def endless(self) -> bool:
        """Whether prompt and answer may be longer than the context; known once the model is loaded."""
        info = self.supervisor.info
        return info is not None and bool(info.get("endless"))

    @property
    def known_context_length(self) -> int | None:
        """The context length without waiting; None while the model is not loaded."""
        info = self.supervisor.info
        return None if info is None else self._capped(info["context_length"])

    @property
    def last_context_length(self) -> int | None:
        """The same, from an earlier run while the model is not loaded."""
        if (known := self.known_context_length) is not None:
            return known
        return None if self._known is None else self._capped(self._known.context_length)

    def fits(self, prompt_tokens: int, max_tokens: int, context_length: int) -> bool:
        """Whether prompt and answer are within a context; where an encoder reads the prompt, each for itself."""
        info = self.supervisor.info
        apart = info is not None and info["kind"] == "encoder-decoder"
        longest = max(prompt_tokens, max_tokens + 1) if apart else prompt_tokens + max_tokens
        return self.endless or longest <= context_length

    @property
    def load_seconds(self) -> float | None:
        """How long the last load took."""
        return None if self._known is None else self._known.load_seconds

    def need(self, budget_bytes: int) -> int:
        """Bytes it wants of the budget. Raises ModelTooLarge."""
        base_bytes = guess(self.stored.num_bytes) if self._known is None else self._known.base_bytes
        if self.stored.only_embeds:
            return share(self.name, base_bytes, budget_bytes, 0, _EMBEDDER_BYTES).total_bytes
        wanted = self._wanted
        self._share = share(self.name, base_bytes, budget_bytes, wanted.kv_bytes, wanted.prefix_bytes)
        return self._share.total_bytes

    def spawn(self) -> None:
        """Start the worker within its share; `begin` listens to it later."""
        self._prepare()
        self.supervisor.spawn()

    def begin(self) -> None:
        """Load. Raises ModelUnavailable."""
        if self.supervisor.process_id is None:
            self._prepare()
        self.supervisor.start().add_done_callback(self._loaded)

    def _prepare(self) -> None:
        if self._share is not None:
            own = self._share
            self.supervisor.engine = replace(self._wanted, kv_bytes=own.kv_bytes, prefix_bytes=own.prefix_bytes)
        self._began = monotonic()

    def measure(self) -> int:
        """Bytes it is counted with: its process as it is, and as much as keys and values may become."""
        self._remember()
        kept = 0 if self._share is None else self._share.kv_bytes + self._share.prefix_bytes
        base = guess(self.stored.num_bytes) if self._known is None else self._known.base_bytes
        return base + (kept or _EMBEDDER_BYTES)

    async def end(self) -> None:
        """Unload: the process ends, and the text side is forgotten."""
        self._write_down()
        await self.supervisor.unload()
        self._forget_text()
        log.info("%s is unloaded", self.name)

    async def close(self) -> None:
        """End for good; whoever waits or reads is told that the server shuts down."""
        self._write_down()
        self._forget_text()
        await self.supervisor.close()

    def _forget_text(self) -> None:
        reading, self._text = self._text, None
        if reading is None or not reading.done() or reading.cancelled() or reading.exception() is not None:
            return
        if (template := reading.result().chat_template) is not None:
            template.close()

    def _loaded(self, ready: "asyncio.Future[Mapping[str, Any]]") -> None:
        if not ready.cancelled() and ready.exception() is None:
            self._remember(monotonic() - self._began)
            log.info("%s loads in %.2f s", self.name, self.load_seconds)
            if left_out := ready.result().get("left_out"):
                parts = ", ".join(f"{count} tensors of {part}" for part, count in left_out.items())
                log.info("%s is loaded for text alone: %s are left out", self.name, parts)

    def _write_down(self) -> None:
        self._remember()
        if self._known is not None and self.supervisor.info is not None:
            self._measurements.put(self._run, self._known)

    def _remember(self, load_seconds: float | None = None) -> None:
        """Measure the process, if its model is loaded."""
        info = self.supervisor.info
        num_bytes = resident_bytes(self.supervisor.process_id)
        if info is None or not num_bytes:
            return
        stats = self.supervisor.stats
        kept = 0 if stats is None else stats.kv_bytes + stats.prefix_bytes
        seconds = load_seconds if load_seconds is not None else self.load_seconds or 0.0
        self._known = Measured(self.stored.num_bytes, max(num_bytes - kept, 0), seconds, info["context_length"])

    def _ended(self) -> None:
        self._residency.vanished(self)

    def _capped(self, own: int) -> int:
        return own if self._context_length is None else min(own, self._context_length)
