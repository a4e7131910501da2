"""The web application: routes, error answers and the doors before them. Starts no process and opens no port."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp

from server.api.chat.route import router as chat
from server.api.completions.route import router as completions
from server.api.decisions.route import router as decisions
from server.api.embeddings.route import router as embeddings
from server.api.messages.route import router as messages
from server.api.models.residency import router as residency
from server.api.models.route import router as models
from server.api.operations.health import router as health
from server.api.operations.metrics import router as metrics
from server.api.operations.status import router as status
from server.api.rerank.route import router as rerank
from server.api.responses.route import router as responses
from server.api.responses.store import ResponseStore
from server.api.tokens.route import router as tokens
from server.http.binding import is_loopback
from server.http.dialects import ForgiveAddresses
from server.http.error_responses import install
from server.http.openapi import FAILURES, MESSAGE_FAILURES, description_route
from server.http.pages import Pages
from server.http.security import BodyLimit, HostGuard, KeyGuard, OriginGuard
from server.http.traffic import HoldModels, Traffic
from server.models.registry import Registry
from server.monitoring.metrics import Metrics
from server.monitoring.status import Watch
from server.settings import Settings
from server.version import VERSION

_OPENAI = (
    chat, completions, responses, decisions, embeddings, rerank, tokens, residency, models, status, health, metrics,
)  # fmt: skip


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
        openapi_url=None,  # the framework makes it on the event loop
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
    description_route(app)
    for router in _OPENAI:
        app.include_router(router, responses=FAILURES)
    app.include_router(messages, responses=MESSAGE_FAILURES)
    return app
