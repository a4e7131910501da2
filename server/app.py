"""The web application: routes, error answers and the doors before them. Starts no process and opens no port."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp

from server.addresses import ForgiveAddresses
from server.binding import is_loopback
from server.error_responses import install
from server.hold_models import HoldModels
from server.metrics import Metrics
from server.openapi import FAILURES, MESSAGE_FAILURES
from server.pages import Pages
from server.registry import Registry
from server.response_store import ResponseStore
from server.routes import (
    chat,
    completions,
    decisions,
    embeddings,
    health,
    messages,
    metrics,
    models,
    rerank,
    residency,
    responses,
    status,
    tokens,
)
from server.security import BodyLimit, HostGuard, KeyGuard, OriginGuard
from server.settings import Settings
from server.status import Watch
from server.traffic import Traffic
from server.version import VERSION


def build_app(settings: Settings, registry: Registry) -> Traffic:
    """The application with its doors: from the outside in they are traffic, host, origin, page, address, key, size."""
    app: ASGIApp = HoldModels(_routes(settings, registry), registry.residency)
    app = BodyLimit(app, max_bytes=settings.max_body_bytes)
    app = KeyGuard(app, keys=settings.keys())
    app = Pages(ForgiveAddresses(app))
    app = OriginGuard(app, allowed=settings.allowed_origins)
    return Traffic(HostGuard(app, bound_to=settings.host, allowed=settings.allowed_hosts))


def _routes(settings: Settings, registry: Registry) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        registry.start()
        watching = asyncio.create_task(app.state.watch.watch_for_ever())
        yield
        watching.cancel()
        await registry.close()

    app = FastAPI(
        title="Bramley",
        version=VERSION,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # its page would be fetched from elsewhere; server/web has its own
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    app.state.settings = settings
    app.state.registry = registry
    app.state.responses = ResponseStore()
    app.state.metrics = Metrics(registry)
    app.state.watch = Watch(registry, app.state.metrics)
    # Token by token it would tell what others have asked: only where everybody who asks is the one who serves.
    app.state.tells_stored_tokens = is_loopback(settings.host) and not settings.keys()
    install(app)
    speaking = (chat, completions, responses, decisions, embeddings, rerank, tokens)
    for resource in (*speaking, residency, models, status, health, metrics):
        app.include_router(resource.router, responses=FAILURES)
    app.include_router(messages.router, responses=MESSAGE_FAILURES)
    return app
