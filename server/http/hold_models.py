"""A request keeps the models that it uses in memory until its answer has been sent. ASGI only."""

from starlette.types import ASGIApp, Receive, Scope, Send

from server.models.lease import holding
from server.models.residency import Residency


class HoldModels:
    """Middleware: a request holds its models until its answer has been sent, streams to their last event."""

    def __init__(self, app: ASGIApp, residency: Residency) -> None:
        self._app = app
        self._residency = residency

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with holding(self._residency):
            await self._app(scope, receive, send)
