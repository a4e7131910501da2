"""Bring a server up: check the address, start the worker, and only then import the web. Says what a person sees."""

import asyncio
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError
from server.errors import ApiError, ModelNotFound, ModelTooLarge
from server.exit_codes import DONE, FAILURE, USAGE
from server.http.binding import AddressRefused, listen, require_key_in_public
from server.log_lines import set_up_logging
from server.models.build import build_registry
from server.models.registry import Registry
from server.models.residency import holding
from server.models.served_model import ServedModel
from server.models.text import ModelText, load_text
from server.settings import Settings
from server.store.errors import StoreError
from server.store.places import other_places
from server.store.store import Store
from server.store.stored_model import StoredModel
from server.terminal.chat_client import ChatClient, reachable
from server.terminal.load_report import report_load
from server.terminal.progress import progress_report
from server.worker.process import WORKER_COMMAND

if TYPE_CHECKING:
    import socket

# What to ask a model for first, by its kind: a route and its body.
_QUESTION = "What is the capital of France?"
_CHAT: tuple[str, dict[str, Any]] = (
    "chat/completions",
    {"temperature": 0, "messages": [{"role": "user", "content": _QUESTION}]},
)
_EXAMPLES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "embedder": ("embeddings", {"input": _QUESTION}),
    "classifier": ("rerank", {"query": _QUESTION, "documents": ["Paris is its capital.", "It has many rivers."]}),
}


def serve(
    settings: Settings,
    *,
    find: Callable[[str], StoredModel] | None = None,
    store: Store | None = None,
    command: Sequence[str] = WORKER_COMMAND,
    read_text: Callable[[Path], ModelText] = load_text,
) -> int:
    """Serve until a signal ends it; returns the exit code. The first model is loaded at once.

    find: the model of a name of the settings; None asks the store of the settings
    store: where models that requests name are looked for; None, where `find` is given, has no others than those named
    """
    set_up_logging(settings.log_level, settings.log_format)
    try:
        keys = settings.keys()
    except OSError as error:
        _say(f"The file of API keys cannot be read: {error.strerror}.")
        return USAGE
    if find is None:
        others = other_places(settings.lm_studio_folders, settings.ollama_folders)
        store = store or Store(settings.models_dir, settings.hub_cache, others=others)
        find = store.find
    try:
        require_key_in_public(settings.host, keys, allow_insecure=settings.allow_insecure)
        registry = build_registry(settings, find, store, command, read_text)
        opened = listen(settings.host, settings.port, settings.listen_backlog)
    except (AddressRefused, StoreError) as error:
        _say(str(error))
        return error.exit_code
    except ModelNotFound as error:
        _say(f"An alias or a pin names a model that is not here. {error}")
        return USAGE
    try:
        registry.spawn()
    except ModelTooLarge as error:
        opened.close()
        _say(str(error))
        return FAILURE
    return _run(settings, registry, opened)


def _run(settings: Settings, registry: Registry, opened: "socket.socket") -> int:
    # The worker reads weights on another core while these are imported.
    from server.app import build_app  # noqa: PLC0415
    from server.http.listener import Listener  # noqa: PLC0415

    announcing: list[asyncio.Task[None]] = []

    def announce() -> None:
        url = ChatClient(reachable(settings.host), opened.getsockname()[1]).url
        _say(f"Serving {', '.join(model.name for model in registry.named)} at {url}")
        key = ' -H "Authorization: Bearer YOUR_KEY"' if settings.keys() else ""
        announcing.append(asyncio.create_task(_announce_model(registry, url, key)))

    Listener(settings, build_app(settings, registry), registry, announce).run(sockets=[opened])
    return DONE


async def _announce_model(registry: Registry, url: str, key: str) -> None:
    """Read what the first request will need, and say how the model runs and is asked, or why it cannot be used.

    key: the option of curl that sends one
    """
    model = registry.default
    try:
        with holding(registry.residency):
            info, _, _ = await asyncio.gather(model.ready(), model.text(), _show_load(model))
    except (ApiError, EngineError) as error:
        _say(f"{model.name} cannot be used: {error}")
    else:
        _say(_model_lines(model.name, info))
        route, body = _EXAMPLES.get(info["kind"], _CHAT)
        _say(f"Try it:\n  curl {url}/{route}{key} -d {shlex.quote(json.dumps({'model': model.name} | body))}")


async def _show_load(model: ServedModel) -> None:
    """A bar on a terminal, lines elsewhere, for a load that takes its time."""

    def loading() -> tuple[int, int] | None:
        health = model.supervisor.health
        return (health.done_bytes, health.total_bytes) if health.state == "loading" else None

    await report_load(loading, partial(progress_report, model.name))


def _model_lines(name: str, info: Mapping[str, Any]) -> str:
    megabytes = info["weight_bytes"] / 1e6
    lines = [
        f"{name} is loaded: {info['model_type']}, {megabytes:.0f} MB, quantization {info['quantization']}, "
        f"context {info['context_length']} tokens",
        f"Running on {info['device']} in {info['dtype']}, BLAS {info['blas']}, kernels {info['kernels'] or 'of MLX'}",
        info["advice"],
    ]
    return "\n".join(line for line in lines if line)


def _say(lines: str) -> None:
    sys.stdout.write(lines + "\n")
    sys.stdout.flush()
