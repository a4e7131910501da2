"""Which models the work at hand needs to stay in memory. Knows places; knows nothing of requests or processes.

What is held belongs to the context of the running task and of the tasks it starts, so that whoever needs a model says
no more than that, and whoever began the work ends all of its leases at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from server.models.residency import Place, Residency, Tenant

_held: ContextVar[list[Place] | None] = ContextVar("held", default=None)


@contextmanager
def holding(residency: Residency) -> Iterator[None]:
    """Models that `hold` is called for inside of this stay until its end."""
    places: list[Place] = []
    token = _held.set(places)
    try:
        yield
    finally:
        _held.reset(token)
        for place in places:
            residency.release(place)


async def hold(residency: Residency, tenant: Tenant) -> None:
    """Have the model in memory, loading or loaded, until the work at hand ends. Raises what `acquire` raises."""
    places = _held.get()
    if places is None:
        raise RuntimeError("a model can only be held inside of `holding`")
    if not any(place.tenant is tenant and not place.gone.is_set() for place in places):
        places.append(await residency.acquire(tenant))
