"""The answers in the OpenAPI document that no route declares: failures, and streams of events."""

from typing import Any

from server.errors import ErrorEnvelope
from server.http.dialects import AnthropicError

Responses = dict[int | str, dict[str, Any]]


def failures(model: type) -> Responses:
    """Every status of a failure, in one envelope."""
    return {
        "4XX": {"description": "The request cannot be answered as it is.", "model": model},
        "5XX": {"description": "The server cannot answer now, or failed to.", "model": model},
    }


FAILURES = failures(ErrorEnvelope)
MESSAGE_FAILURES = failures(AnthropicError)
# Beside the whole answer, which the route declares.
STREAMED: Responses = {200: {"content": {"text/event-stream": {}}}}
