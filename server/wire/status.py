"""The wire types of /status: what the server holds and does, for people, pages and scripts. No behaviour.

Sizes are bytes, times of day Unix seconds. A null is a figure that nobody knows yet.
"""

from typing import Literal

from typing_extensions import TypedDict  # pydantic asks for this one on Python 3.11

# unloaded: on disk, and loaded by the first request for it; waiting: until there is memory for it; loading; ready;
# draining: it finishes what it runs and is then unloaded; stuck: its process is silent; failed: see `reason`
ModelState = Literal["unloaded", "waiting", "loading", "ready", "draining", "stuck", "failed"]


class ModelMemory(TypedDict):
    """The memory of a model. All of it goes back to the system when the model is unloaded.

    resident_bytes: of its process, measured when it was last idle or asked about; 0 while there is none
    reserved_bytes: what admission counts for it: weights, overhead and the most its keys and values may take. While
        the model is not loaded, what it would need
    kv_bytes, kv_limit_bytes: keys and values of running requests, now and at most
    prefix_bytes: of earlier requests, kept for those to come
    """

    resident_bytes: int
    reserved_bytes: int
    kv_bytes: int
    kv_limit_bytes: int
    prefix_bytes: int


class ModelRequests(TypedDict):
    """Requests for one model.

    running: they write, or their prompts are read
    queued: in the model's own queue
    waiting: for the model to be loaded
    """

    running: int
    queued: int
    waiting: int


class PrefixUse(TypedDict):
    """Prompt tokens since the model was loaded: looked up among those of earlier requests, and found there."""

    queried_tokens: int
    cached_tokens: int


class ModelStatus(TypedDict):
    """One model that can be served.

    reason: why it failed or is stuck, else empty
    default: answers requests that name no model
    pinned: never unloaded to make room or for being idle
    size_bytes: of its files
    kind: decoder, encoder-decoder, embedder or classifier, once it has been loaded
    context_length: tokens of prompt and answer together, once it has been loaded
    done_bytes, total_bytes: of weights, while it loads
    load_seconds: how long the last load took
    idle_seconds: since its last request ended; null while it runs one or is not loaded
    unload_in_seconds: when it will be unloaded if nobody asks for it; null where it stays
    """

    id: str
    aliases: list[str]
    state: ModelState
    reason: str
    default: bool
    pinned: bool
    size_bytes: int
    kind: str | None
    context_length: int | None
    process_id: int | None
    done_bytes: int
    total_bytes: int
    load_seconds: float | None
    idle_seconds: float | None
    unload_in_seconds: float | None
    memory: ModelMemory
    requests: ModelRequests
    prefix: PrefixUse


class ServerMemory(TypedDict):
    """Memory of all models together.

    budget_bytes: what models may take together (--memory-budget-gb)
    reserved_bytes: what admission counts for those that are loaded, load or drain
    resident_bytes: of this process and all its workers
    system_bytes, available_bytes: the machine's memory, and how much of it programs may still have
    """

    budget_bytes: int
    reserved_bytes: int
    resident_bytes: int
    system_bytes: int
    available_bytes: int


class PullStatus(TypedDict):
    """A download into the models' folder, by whatever process.

    state: running, or interrupted: what is there is taken up again by the next pull
    total_bytes: 0 where it is not known
    """

    id: str
    state: Literal["running", "interrupted"]
    done_bytes: int
    total_bytes: int


class Sample(TypedDict):
    """One moment of the history. Tokens are sums over all models since the server's start and never fall.

    num_loaded: models in memory
    queued: requests in models' queues or waiting for a model
    """

    at: float
    num_loaded: int
    resident_bytes: int
    running: int
    queued: int
    prompt_tokens: int
    generated_tokens: int
    queried_tokens: int
    cached_tokens: int


class History(TypedDict):
    """The last minutes, oldest first; the last sample is of this moment."""

    interval_seconds: float
    samples: list[Sample]


class Status(TypedDict):
    """Everything at once.

    models: the default first, then the others named at the start, then the rest of the store by id
    """

    object: Literal["status"]
    version: str
    state: Literal["ok", "draining"]
    started: float
    now: float
    memory: ServerMemory
    models: list[ModelStatus]
    pulls: list[PullStatus]
    history: History
