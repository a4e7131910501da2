"""The server's models, memory and requests as one picture, and as a line of small pictures over time. Knows no HTTP."""

import asyncio
import contextlib
import os
from collections import deque
from time import monotonic, time

import psutil

from engine.machine import memory_bytes
from engine.settings import EngineStats
from server.errors import ModelTooLarge
from server.models.footprint import resident_bytes
from server.models.registry import Registry
from server.models.served_model import ServedModel
from server.monitoring.metrics import Metrics
from server.store.pulls import pulls_in
from server.version import VERSION
from server.wire.status import (
    History,
    ModelMemory,
    ModelState,
    ModelStatus,
    Sample,
    ServerMemory,
    Status,
)

INTERVAL_SECONDS = 2.0
HISTORY_SECONDS = 600.0
_NOTHING = EngineStats(num_running=0, num_waiting=0)


class Watch:
    """Takes a sample every two seconds while the server lives."""

    def __init__(self, registry: Registry, metrics: Metrics) -> None:
        self._registry = registry
        self._metrics = metrics
        self._started = time()
        self._samples: deque[Sample] = deque(maxlen=int(HISTORY_SECONDS / INTERVAL_SECONDS))
        self._looked_up = _Sums()

    async def watch_for_ever(self) -> None:
        """Run as a task."""
        while True:
            self._samples.append(self._sample())
            await asyncio.sleep(INTERVAL_SECONDS)

    async def status(self, *, draining: bool) -> Status:
        """The picture of this moment."""
        models = await asyncio.to_thread(self._registry.all)
        store = self._registry.store
        pulls = [] if store is None else await asyncio.to_thread(pulls_in, store)
        sample = self._sample()
        history: History = {"interval_seconds": INTERVAL_SECONDS, "samples": [*self._samples, sample]}
        return {
            "object": "status",
            "version": VERSION,
            "state": "draining" if draining else "ok",
            "started": self._started,
            "now": sample["at"],
            "memory": self._memory(sample["resident_bytes"]),
            "models": [model_status(self._registry, model) for model in models],
            "pulls": pulls,
            "history": history,
        }

    def _memory(self, own_bytes: int) -> ServerMemory:
        residency = self._registry.residency
        return {
            "budget_bytes": residency.budget_bytes,
            "reserved_bytes": residency.held_bytes,
            "resident_bytes": own_bytes,
            "system_bytes": memory_bytes(),
            "available_bytes": int(psutil.virtual_memory().available),
        }

    def _sample(self) -> Sample:
        models = self._registry.models
        residency = self._registry.residency
        stats = {model.name: model.supervisor.stats or _NOTHING for model in models}
        prompt_tokens, generated_tokens = self._metrics.tokens()
        queried, found = self._looked_up.add(stats)
        workers = [model.supervisor.process_id for model in models]
        return {
            "at": time(),
            "num_loaded": sum(model.supervisor.info is not None for model in models),
            "resident_bytes": sum(map(resident_bytes, [os.getpid(), *workers])),
            "running": sum(each.num_running for each in stats.values()),
            "queued": sum(each.num_waiting for each in stats.values()) + sum(map(residency.num_waiting, models)),
            "prompt_tokens": prompt_tokens,
            "generated_tokens": generated_tokens,
            "queried_tokens": queried,
            "cached_tokens": found,
        }


class _Sums:
    """Workers count from their own start; these sums go on over their ends."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int]] = {}
        self._sums = (0, 0)

    def add(self, stats: dict[str, EngineStats]) -> tuple[int, int]:
        for name, each in stats.items():
            now, before = (each.queried_tokens, each.cached_tokens), self._last.get(name, (0, 0))
            if now[0] < before[0]:
                before = (0, 0)
            self._sums = (self._sums[0] + now[0] - before[0], self._sums[1] + now[1] - before[1])
            self._last[name] = now
        return self._sums


def model_status(registry: Registry, model: ServedModel) -> ModelStatus:
    """One model's part of the picture."""
    info, health = model.supervisor.info, model.supervisor.health
    stats, place = model.supervisor.stats or _NOTHING, registry.residency.residence(model)
    unload_at = registry.residency.unload_at(model)
    is_idle = place is not None and not place.num_leases and not stats.num_running
    return {
        "id": model.name,
        "aliases": registry.aliases_of(model),
        "state": model_state(registry, model),
        "reason": health.reason,
        "default": model is registry.default,
        "pinned": model.pinned,
        "size_bytes": model.stored.num_bytes,
        "kind": None if info is None else info["kind"],
        "context_length": model.known_context_length,
        "process_id": model.supervisor.process_id,
        "done_bytes": health.done_bytes,
        "total_bytes": health.total_bytes,
        "load_seconds": model.load_seconds,
        "idle_seconds": monotonic() - place.last_used if place is not None and is_idle else None,
        "unload_in_seconds": None if unload_at is None else max(0.0, unload_at - monotonic()),
        "memory": _memory_of(registry, model, stats),
        "requests": {
            "running": stats.num_running,
            "queued": stats.num_waiting,
            "waiting": registry.residency.num_waiting(model),
        },
        "prefix": {"queried_tokens": stats.queried_tokens, "cached_tokens": stats.cached_tokens},
    }


def model_state(registry: Registry, model: ServedModel) -> ModelState:
    """The state of a model, in one word."""
    place, health = registry.residency.residence(model), model.supervisor.health
    if place is None:
        if registry.residency.num_waiting(model):
            return "waiting"
        return "failed" if health.state == "failed" else "unloaded"
    if place.leaving:
        return "draining"
    return "loading" if health.state == "stopped" else health.state


def _memory_of(registry: Registry, model: ServedModel, stats: EngineStats) -> ModelMemory:
    place = registry.residency.residence(model)
    reserved = 0 if place is None else place.held_bytes
    if place is None:
        with contextlib.suppress(ModelTooLarge):
            reserved = model.need(registry.residency.budget_bytes)
    return {
        "resident_bytes": resident_bytes(model.supervisor.process_id),
        "reserved_bytes": reserved,
        "kv_bytes": stats.kv_bytes,
        "kv_limit_bytes": stats.kv_limit_bytes,
        "prefix_bytes": stats.prefix_bytes,
    }
