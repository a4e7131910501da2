"""Who may be in memory: admission by bytes, one queue for all, the least recently used leaves first.

Knows models by what they need and when they were used; knows nothing of processes, text or HTTP.
Lives on one event loop.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from server.errors import ApiError, ModelLoading, ModelTooLarge, ShuttingDown

# A model that was in use a moment ago is likely to be asked for again at once. While others are busy it counts as idle
# after as long as loading it again would take: so waiting costs at most what loading in vain would. When nobody uses
# any model, all who could ask for it may be those who wait, and a moment is enough.
_SHORTEST_SETTLE_SECONDS, _LONGEST_SETTLE_SECONDS = 1.0, 5.0
_QUIET_SECONDS = 0.5


class Tenant(Protocol):
    """A model as the residency sees it."""

    name: str
    pinned: bool

    @property
    def load_seconds(self) -> float | None:
        """How long the last load took; None where that is not known."""

    def need(self, budget_bytes: int) -> int:
        """Bytes it wants. Raises ModelTooLarge when even the least would not fit into all of the budget."""

    def begin(self) -> None:
        """Start to load, within what `need` said. Raises ApiError."""

    def measure(self) -> int:
        """Bytes it is counted with, as far as known by now."""

    async def end(self) -> None:
        """Unload; afterwards its memory is the system's again."""


@dataclass(eq=False, slots=True)
class Residence:
    """A model's stay in memory.

    held_bytes: what admission counts
    last_used: when its last lease ended
    asked_at: when it was first waited for; served: since when some of those who did have had their answers
    num_leases: requests that need the model to stay
    leaving: nobody new is let in; it ends with the last lease
    """

    tenant: Tenant
    held_bytes: int
    last_used: float
    asked_at: float
    num_leases: int = 0
    served: float | None = None
    leaving: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    ending: "asyncio.Task[None] | None" = None

    @property
    def may_leave(self) -> bool:
        """Whether nobody uses it and nothing else keeps it."""
        return not (self.num_leases or self.leaving or self.tenant.pinned)

    @property
    def settle_seconds(self) -> float:
        """How long nobody must have used it before it counts as idle."""
        return min(max(_SHORTEST_SETTLE_SECONDS, self.tenant.load_seconds or 0.0), _LONGEST_SETTLE_SECONDS)


@dataclass(eq=False, slots=True)
class _Ticket:
    """Everybody who waits for one model to come in: one turn in the queue, one load."""

    since: float
    granted: "asyncio.Future[Residence]"
    num_waiting: int = 0


class Residency:
    """The residences and the queue.

    budget_bytes: what all models may take together
    idle_seconds: a model unused for that long is unloaded; None keeps it until its memory is needed
    patience_seconds: how long the first in the queue waits for a model to become idle; after that the least recently
        used one takes no new requests, and leaves when it has finished those it runs
    queue_seconds: the longest wait of a request in the queue
    """

    def __init__(
        self,
        budget_bytes: int,
        *,
        idle_seconds: float | None = None,
        patience_seconds: float = 15.0,
        queue_seconds: float = 600.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.budget_bytes = budget_bytes
        self.idle_seconds = idle_seconds
        self._patience_seconds = patience_seconds
        self._queue_seconds = queue_seconds
        self._clock = clock
        self._residences: dict[Tenant, Residence] = {}
        self._queue: dict[Tenant, _Ticket] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def held_bytes(self) -> int:
        """The bytes of the budget that are taken."""
        return sum(each.held_bytes for each in self._residences.values())

    def residence(self, tenant: Tenant) -> Residence | None:
        """Where the model is, if it is in memory or on its way in or out."""
        return self._residences.get(tenant)

    def num_waiting(self, tenant: Tenant) -> int:
        """Requests that wait for the model to come in."""
        ticket = self._queue.get(tenant)
        return 0 if ticket is None else ticket.num_waiting

    def unload_at(self, tenant: Tenant) -> float | None:
        """When the model will leave unless somebody asks for it, on this object's clock."""
        residence = self._residences.get(tenant)
        if residence is None or self.idle_seconds is None or not residence.may_leave:
            return None
        return residence.last_used + self.idle_seconds

    def admit(self, tenant: Tenant) -> Residence:
        """Have a model reside at once, before anything else is in memory. Raises ModelTooLarge. Needs no event loop."""
        now = self._clock()
        residence = Residence(tenant, tenant.need(self.budget_bytes), now, now)
        self._residences[tenant] = residence
        return residence

    async def acquire(self, tenant: Tenant) -> Residence:
        """A lease on the model's residence, which `release` gives back; waits until there is room for it.

        Raises ModelTooLarge, ModelLoading when it takes too long, ShuttingDown, and what `begin` raises.
        """
        if self._closed:
            raise ShuttingDown
        residence = self._residences.get(tenant)
        if residence is not None and not residence.leaving:
            residence.num_leases += 1
            return residence
        self._require_possible(tenant)
        ticket = self._queue.get(tenant)
        if ticket is None:
            ticket = self._queue[tenant] = _Ticket(self._clock(), asyncio.get_running_loop().create_future())
        ticket.num_waiting += 1
        self._pump()
        try:
            async with asyncio.timeout(self._queue_seconds):
                return await asyncio.shield(ticket.granted)
        except TimeoutError:
            self._give_up(tenant, ticket)
            raise ModelLoading(tenant.name) from None
        except asyncio.CancelledError:
            self._give_up(tenant, ticket)
            raise

    def release(self, residence: Residence) -> None:
        """Give a lease back."""
        residence.num_leases -= 1
        residence.last_used = now = self._clock()
        if residence.served is None:
            residence.served = now
        if not residence.num_leases and not residence.gone.is_set():
            residence.held_bytes = residence.tenant.measure()
            if residence.leaving:
                self._end(residence)
        self._pump()

    async def unload(self, tenant: Tenant) -> None:
        """Let nobody new in, wait for those inside, and unload; nothing to do for a model that is not in memory."""
        residence = self._residences.get(tenant)
        if residence is not None:
            self._leave(residence)
            await residence.gone.wait()

    def vanished(self, tenant: Tenant) -> None:
        """The model's process has ended by itself and will not be started again."""
        residence = self._residences.get(tenant)
        if residence is not None and residence.ending is None:
            self._remove(residence)

    def close(self) -> None:
        """Let nobody in any more, and tell so those who wait."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for ticket in self._queue.values():
            _fail(ticket, ShuttingDown())
        self._queue.clear()

    def _require_possible(self, tenant: Tenant) -> None:
        """Raises ModelTooLarge when the model would not fit even if all others that may leave had left."""
        pinned = sum(each.held_bytes for each in self._residences.values() if each.tenant.pinned and not each.leaving)
        needed = tenant.need(self.budget_bytes)
        if needed > self.budget_bytes - pinned:
            raise ModelTooLarge(tenant.name, needed, self.budget_bytes, pinned)

    def _give_up(self, tenant: Tenant, ticket: _Ticket) -> None:
        """One of those who waited has left; a lease that was granted meanwhile goes back."""
        if ticket.granted.done():
            if not ticket.granted.cancelled() and ticket.granted.exception() is None:
                self.release(ticket.granted.result())
            return
        ticket.num_waiting -= 1
        if not ticket.num_waiting:
            del self._queue[tenant]
            self._pump()

    def _pump(self) -> None:
        """Do whatever can be done now, and come back when time alone will have changed something."""
        if self._closed:
            return
        now = self._clock()
        self._send_idle_away(now)
        while self._queue:
            tenant, ticket = next(iter(self._queue.items()))
            if tenant in self._residences or not self._has_room(tenant, ticket, now):
                break
            self._grant(tenant, ticket, now)
        self._set_timer(now)

    def _send_idle_away(self, now: float) -> None:
        for tenant, residence in list(self._residences.items()):
            due = self.unload_at(tenant)
            if due is not None and due <= now:
                self._leave(residence)

    def _has_room(self, tenant: Tenant, ticket: _Ticket, now: float) -> bool:
        """Whether the first in the queue can come in; if not, send away who must leave for it, and who may."""
        try:
            needed = tenant.need(self.budget_bytes)
        except ModelTooLarge:
            return True  # `begin` says so
        free = self.budget_bytes - self.held_bytes
        if needed <= free:
            return True
        free += sum(each.held_bytes for each in self._residences.values() if each.leaving)
        staying = sorted(
            (each for each in self._residences.values() if not each.leaving and not each.tenant.pinned),
            key=lambda residence: (residence.num_leases > 0, residence.last_used),
        )
        idle = [
            residence for residence in staying if (since := self._idle_since(residence)) is not None and since <= now
        ]
        impatient = now >= ticket.since + self._patience_seconds
        chosen: list[Residence] = []
        for residence in staying if impatient else idle:
            if needed <= free:
                break
            chosen.append(residence)
            free += residence.held_bytes
        if needed <= free:
            for residence in chosen:
                self._leave(residence)
        return False

    def _idle_since(self, residence: Residence) -> float | None:
        """When a model may leave to make room; None while it may not.

        Those who use it may have been among those who waited for another model: that time is no sign of its being idle.
        """
        if not residence.may_leave:
            return None
        since = residence.last_used + residence.settle_seconds
        others = sorted(
            (each for each in self._residences.values() if each is not residence), key=lambda each: each.asked_at
        )
        if not any(other.num_leases for other in others):
            return min(since, max(each.last_used for each in self._residences.values()) + _QUIET_SECONDS)
        for other in others:
            if other.asked_at < since and (other.served is None or other.served > residence.last_used):
                if other.served is None and other.num_leases:
                    return None
                since = max(since, (other.served or 0.0) + residence.settle_seconds)
        return since

    def _grant(self, tenant: Tenant, ticket: _Ticket, now: float) -> None:
        del self._queue[tenant]
        try:
            residence = Residence(tenant, tenant.need(self.budget_bytes), now, ticket.since, ticket.num_waiting)
            self._residences[tenant] = residence
            tenant.begin()
        except ApiError as error:
            self._residences.pop(tenant, None)
            _fail(ticket, error)
        else:
            ticket.granted.set_result(residence)

    def _leave(self, residence: Residence) -> None:
        residence.leaving = True
        if not residence.num_leases:
            self._end(residence)

    def _end(self, residence: Residence) -> None:
        if residence.ending is None:
            residence.ending = asyncio.create_task(self._ended(residence))

    async def _ended(self, residence: Residence) -> None:
        try:
            await residence.tenant.end()
        finally:
            self._remove(residence)

    def _remove(self, residence: Residence) -> None:
        if self._residences.get(residence.tenant) is residence:
            del self._residences[residence.tenant]
        residence.gone.set()
        self._pump()

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        times = [due for tenant in self._residences if (due := self.unload_at(tenant)) is not None]
        if self._queue:
            times.append(next(iter(self._queue.values())).since + self._patience_seconds)
            times += [since for each in self._residences.values() if (since := self._idle_since(each)) is not None]
        later = [time for time in times if time > now]
        if later:
            self._timer = asyncio.get_running_loop().call_later(min(later) - now + 0.001, self._pump)


def _fail(ticket: _Ticket, error: Exception) -> None:
    with contextlib.suppress(asyncio.InvalidStateError):
        ticket.granted.set_exception(error)
        ticket.granted.exception()  # all who waited may have left


_held: ContextVar[list[Residence] | None] = ContextVar("held", default=None)


@contextmanager
def holding(residency: Residency) -> Iterator[None]:
    """Models that `hold` is called for inside of this stay until its end."""
    residences: list[Residence] = []
    token = _held.set(residences)
    try:
        yield
    finally:
        _held.reset(token)
        for residence in residences:
            residency.release(residence)


async def hold(residency: Residency, tenant: Tenant) -> None:
    """Have the model in memory, loading or loaded, until the work at hand ends. Raises what `acquire` raises."""
    residences = _held.get()
    if residences is None:
        raise RuntimeError("a model can only be held inside of `holding`")
    if not any(residence.tenant is tenant and not residence.gone.is_set() for residence in residences):
        residences.append(await residency.acquire(tenant))
