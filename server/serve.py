"""Bring a server up: check the address, start the worker, and only then import the web. Says what a person sees."""

import asyncio
import json
import logging
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError
from server.binding import AddressRefused, listen, require_key_in_public
from server.errors import ApiError
from server.exit_codes import DONE, USAGE
from server.load_report import report_load
from server.registry import ModelText, Registry, ServedModel, load_text
from server.settings import Settings
from server.store import Store
from server.store_errors import StoreError
from server.stored_model import StoredModel
from server.supervisor import WORKER_COMMAND, Limits, Supervisor
from server.terminal import pull_report

if TYPE_CHECKING:
    import socket

# Addresses to listen on that are none to connect to.
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # nothing is bound here
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
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def serve(
    settings: Settings,
    *,
    find: Callable[[str], StoredModel] | None = None,
    command: Sequence[str] = WORKER_COMMAND,
    read_text: Callable[[Path], ModelText] = load_text,
) -> int:
    """Serve until a signal ends it; returns the exit code. The first model is loaded at once.

    find: the model of a name; None asks the store of the settings
    """
    _set_up_logging(settings)
    try:
        keys = settings.keys()
    except OSError as error:
        _say(f"The file of API keys cannot be read: {error.strerror}.")
        return USAGE
    try:
        require_key_in_public(settings.host, keys, allow_insecure=settings.allow_insecure)
        find = find or Store(settings.models_dir, settings.hub_cache).find
        models = [_served(settings, name, find(name), command, read_text) for name in settings.models]
        opened = listen(settings.host, settings.port, settings.listen_backlog)
    except (AddressRefused, StoreError) as error:
        _say(str(error))
        return error.exit_code
    models[0].supervisor.spawn()
    return _run(settings, Registry(models), opened)


def _run(settings: Settings, registry: Registry, opened: "socket.socket") -> int:
    # The worker reads weights on another core while these are imported.
    from server.app import build_app  # noqa: PLC0415
    from server.listener import Listener  # noqa: PLC0415

    announcing: list[asyncio.Task[None]] = []

    def announce() -> None:
        url = _url(settings.host, opened.getsockname()[1])
        _say(f"Serving {', '.join(model.name for model in registry.models)} at {url}")
        key = ' -H "Authorization: Bearer YOUR_KEY"' if settings.keys() else ""
        announcing.append(asyncio.create_task(_announce_model(registry.models[0], url, key)))

    Listener(settings, build_app(settings, registry), registry, announce).run(sockets=[opened])
    return DONE


def _served(
    settings: Settings,
    name: str,
    stored: StoredModel,
    command: Sequence[str],
    read_text: Callable[[Path], ModelText],
) -> ServedModel:
    limits = Limits(
        max_queue=settings.max_queue,
        load_seconds=settings.load_seconds,
        stale_seconds=settings.silence_stale_seconds,
        dead_seconds=settings.silence_dead_seconds,
    )
    return ServedModel(
        stored.id,
        stored.path,
        Supervisor(stored.id, stored.path, command=command, limits=limits, engine=settings.engine()),
        aliases=(*stored.aliases, name),
        created=stored.created,
        context_length=settings.context_length,
        read_text=read_text,
    )


def _url(host: str, port: int) -> str:
    host = _ANYWHERE.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


async def _announce_model(model: ServedModel, url: str, key: str) -> None:
    """Read what the first request will need, and say how the model runs and is asked, or why it cannot be used.

    key: the option of curl that sends one
    """
    try:
        info, _, _ = await asyncio.gather(model.supervisor.ready(), model.text(), _show_load(model))
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

    await report_load(loading, partial(pull_report, model.name))


def _model_lines(name: str, info: Mapping[str, Any]) -> str:
    megabytes = info["weight_bytes"] / 1e6
    lines = [
        f"{name} is loaded: {info['model_type']}, {megabytes:.0f} MB, quantisation {info['quantization']}, "
        f"context {info['context_length']} tokens",
        f"Running on {info['device']} in {info['dtype']}, BLAS {info['blas']}, kernels {info['kernels'] or 'of MLX'}",
        info["advice"],
    ]
    return "\n".join(line for line in lines if line)


def _set_up_logging(settings: Settings) -> None:
    logging.basicConfig(level=settings.log_level.upper(), format=_LOG_FORMAT, stream=sys.stderr)
    logging.getLogger("uvicorn.error").setLevel("WARNING")
    logging.getLogger("asyncio").setLevel("WARNING")


def _say(lines: str) -> None:
    sys.stdout.write(lines + "\n")
    sys.stdout.flush()
