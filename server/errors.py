"""The errors that a client is told: our own error classes, and one table for the engine's. No framework here.

ApiError                     carries status, type, code, param and headers
├── InvalidRequest           400  a value that no model here could honour
│   ├── MissingParameter     400  a field that is needed and not there
│   └── UnsupportedParameter 400  a known field that this version does not honour
│       └── ThreadUnsupported 400  clients go on without the field when they see its code
├── WrongModelKind           400  the model does not do what this route is for
├── ModelNotFound            404
├── ResponseNotFound         404  it was never kept, or is forgotten
│   └── PreviousResponseNotFound  400
├── ShuttingDown             503
├── Overloaded               503  the queue is full
├── ModelLoading             503  it did not load in time
├── ModelTooLarge            400  it needs more memory than models may take
├── ModelUnavailable         503  it failed to load, or its worker keeps dying
├── WorkerDied               503  the worker ended while the request waited or ran
└── RequestRefused           by table; the worker's engine said no
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from typing_extensions import TypedDict  # pydantic asks for this one on Python 3.11

from engine.errors import EngineError, RequestError


class ErrorBody(TypedDict):
    """The inside of every error answer; all four keys are always there."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(TypedDict):
    """Every error answer, also inside a stream."""

    error: ErrorBody


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """One line of the table: what HTTP says of one kind of failure."""

    status: int
    type: str
    code: str | None
    headers: Mapping[str, str] = field(default_factory=dict)


# The engine's errors by class name, because a worker's errors arrive as names. Deterministic failures are not to be
# retried: client libraries would run them three times.
ENGINE_TABLE: dict[str, ErrorRow] = {
    "CheckpointNotFound": ErrorRow(503, "server_error", "model_load_failed", {"x-should-retry": "false"}),
    "CheckpointCorrupt": ErrorRow(503, "server_error", "model_load_failed", {"x-should-retry": "false"}),
    "CheckpointUnsupported": ErrorRow(503, "server_error", "model_load_failed", {"x-should-retry": "false"}),
    "ParameterInvalid": ErrorRow(400, "invalid_request_error", "invalid_value"),
    "ContextLengthExceeded": ErrorRow(400, "invalid_request_error", "context_length_exceeded"),
    "GrammarInvalid": ErrorRow(400, "invalid_request_error", "invalid_json_schema"),
    "MemoryExceeded": ErrorRow(400, "invalid_request_error", "insufficient_memory"),
    "TemplateFailed": ErrorRow(400, "invalid_request_error", "chat_template_error"),
    "NotFinite": ErrorRow(500, "server_error", "internal_error", {"x-should-retry": "false"}),
    "StepFailed": ErrorRow(500, "server_error", "internal_error"),
}
INTERNAL = ErrorRow(500, "server_error", "internal_error")
INTERNAL_MESSAGE = "The server failed to answer this request. Its log says why."


class ApiError(Exception):
    """Base of every error with its own HTTP answer. str() is one sentence fit for a client."""

    row = INTERNAL

    def __init__(self, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.headers = {**self.row.headers, **(headers or {})}


class InvalidRequest(ApiError):
    """A value that cannot be honoured by any model."""

    row = ErrorRow(400, "invalid_request_error", "invalid_value")


class MissingParameter(InvalidRequest):
    """A field that is needed is not there."""

    row = ErrorRow(400, "invalid_request_error", "missing_required_parameter")

    def __init__(self, param: str) -> None:
        super().__init__(f"{param} is missing.", param=param)


class UnsupportedParameter(InvalidRequest):
    """A field of the API that this version knows and does not honour."""

    row = ErrorRow(400, "invalid_request_error", "unsupported_parameter")

    def __init__(self, param: str, reason: str = "") -> None:
        super().__init__(f"{param} is not supported{': ' + reason if reason else ''}.", param=param)


class ThreadUnsupported(UnsupportedParameter):
    """A conversation of /messages that the server should keep. Clients that see the code send all of it instead."""

    row = ErrorRow(400, "invalid_request_error", "thread_unsupported_request")

    def __init__(self) -> None:
        super().__init__("thread", "send the whole conversation")


_USES = {
    "embedder": "makes embeddings and nothing else: use /v1/embeddings",
    "classifier": "scores texts and nothing else: use /v1/rerank or /v1/score",
}


class WrongModelKind(ApiError):
    """The model does not do what this route is for. `kind` is the model's own."""

    row = ErrorRow(400, "invalid_request_error", "unsupported_value")

    def __init__(self, name: str, kind: str) -> None:
        own = _USES.get(kind, "writes text and nothing else: use /v1/chat/completions or /v1/completions")
        super().__init__(f"{name} {own}.", param="model")


class ModelNotFound(ApiError):
    """No served model has this name."""

    row = ErrorRow(404, "invalid_request_error", "model_not_found")

    def __init__(self, available: tuple[str, ...]) -> None:
        super().__init__(f"This model is not served here. Available: {', '.join(available)}.", param="model")


class ResponseNotFound(ApiError):
    """No response of that id is kept."""

    row = ErrorRow(404, "invalid_request_error", "response_not_found")

    def __init__(self, param: str | None = None) -> None:
        super().__init__("No response of that id is kept here; it may have been forgotten.", param=param)


class PreviousResponseNotFound(ResponseNotFound):
    """A request wants to go on from a response that is not kept."""

    row = ErrorRow(400, "invalid_request_error", "previous_response_not_found")

    def __init__(self) -> None:
        super().__init__("previous_response_id")


class ShuttingDown(ApiError):
    """The server finishes what it has begun and takes nothing new."""

    row = ErrorRow(503, "server_error", "server_overloaded", {"retry-after": "5", "connection": "close"})

    def __init__(self) -> None:
        super().__init__("The server is shutting down.")


class Overloaded(ApiError):
    """As many requests as allowed are running or waiting."""

    row = ErrorRow(503, "server_error", "server_overloaded")

    def __init__(self, limit: int, retry_seconds: int) -> None:
        super().__init__(
            f"The limit of {limit} for running and waiting requests is reached: try again in {retry_seconds} s.",
            headers={"retry-after": str(retry_seconds)},
        )


class ModelLoading(ApiError):
    """The model is still being read after the longest time a request waits for it."""

    row = ErrorRow(503, "server_error", "server_overloaded", {"retry-after": "10"})

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is still loading.")


class ModelTooLarge(ApiError):
    """The model will not fit, whoever leaves. Sizes are bytes; pinned_bytes: of models that never leave."""

    row = ErrorRow(400, "invalid_request_error", "insufficient_memory", {"x-should-retry": "false"})

    def __init__(self, name: str, needed_bytes: int, budget_bytes: int, pinned_bytes: int = 0) -> None:
        pinned = f", of which pinned models hold {_gigabytes(pinned_bytes)}" if pinned_bytes else ""
        super().__init__(
            f"{name} needs about {_gigabytes(needed_bytes)} of memory, and models may take "
            f"{_gigabytes(budget_bytes)} together{pinned} (--memory-budget-gb).",
            param="model",
        )
        self.needed_bytes = needed_bytes
        self.budget_bytes = budget_bytes


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB"


class ModelUnavailable(ApiError):
    """The model cannot be had until somebody looks after it."""

    row = ErrorRow(503, "server_error", "model_load_failed", {"x-should-retry": "false"})

    def __init__(self, name: str, reason: str, retry_seconds: int = 0) -> None:
        again = f"in {retry_seconds} s" if retry_seconds else "with the next request"
        super().__init__(
            f"{name} is not available: {reason.rstrip('.')}. It is tried again {again}, "
            f"or at once by POST /v1/models/{name}/load.",
            headers={"retry-after": str(retry_seconds)} if retry_seconds else None,
        )


class WorkerDied(ApiError):
    """The worker process ended; another one takes its place."""

    row = ErrorRow(503, "server_error", "worker_died", {"retry-after": "1"})

    def __init__(self, name: str) -> None:
        super().__init__(f"The process that runs {name} ended unexpectedly. It is being started again.")


class RequestRefused(ApiError):
    """The engine in the worker did not take the request. `kind` is the name of the engine's error class."""

    def __init__(self, kind: str, message: str, param: str) -> None:
        self.row = ENGINE_TABLE.get(kind, INTERNAL)
        super().__init__(message if kind in ENGINE_TABLE else INTERNAL_MESSAGE, param=param or None)


def row_of(error: Exception) -> ErrorRow:
    """The table's line for any exception."""
    if isinstance(error, ApiError):
        return error.row
    return ENGINE_TABLE.get(type(error).__name__, INTERNAL) if isinstance(error, EngineError) else INTERNAL


def headers_of(error: Exception) -> Mapping[str, str]:
    """Extra response headers for any exception."""
    return error.headers if isinstance(error, ApiError) else row_of(error).headers


def envelope_of(error: Exception) -> ErrorEnvelope:
    """The error answer of any exception. The text of an unknown exception never leaves the server."""
    row = row_of(error)
    known = isinstance(error, ApiError | EngineError)
    param = error.param if isinstance(error, ApiError | RequestError) else None
    return envelope(row, str(error) if known else INTERNAL_MESSAGE, param)


def envelope(row: ErrorRow, message: str, param: str | None = None) -> ErrorEnvelope:
    """An error answer from a line of the table and a sentence."""
    return {"error": {"message": message, "type": row.type, "param": param, "code": row.code}}
