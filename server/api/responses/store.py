"""Responses that later requests may go on from. In memory, bounded, the least recently used forgotten first."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import msgspec

MAX_RESPONSES = 1024
MAX_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """An answer with all that led to it.

    history: items of the whole conversation, this answer's own output last
    input: items of this request
    """

    answer: dict[str, Any]
    input: tuple[dict[str, Any], ...]
    history: tuple[dict[str, Any], ...]

    @property
    def own_items(self) -> tuple[dict[str, Any], ...]:
        """The items of this request and its answer."""
        return (*self.input, *self.answer["output"])


class ResponseStore:
    """Responses by id."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._max_responses, self._max_bytes = max_responses, max_bytes
        self._stored: OrderedDict[str, tuple[StoredResponse, int]] = OrderedDict()
        # By id, and by the response that has it: clients send items of one response again with another.
        self._items: dict[str, dict[str, dict[str, Any]]] = {}
        self._num_bytes = 0

    def put(self, stored: StoredResponse) -> None:
        """Keep one, as far as there is room."""
        size = len(msgspec.json.encode((stored.answer, stored.history)))
        self._stored[stored.answer["id"]] = stored, size
        self._num_bytes += size
        for item in stored.own_items:
            self._items.setdefault(item["id"], {})[stored.answer["id"]] = item
        while len(self._stored) > self._max_responses or self._num_bytes > self._max_bytes:
            self._forget(next(iter(self._stored)))

    def get(self, response_id: str) -> StoredResponse | None:
        """The response of that id, if it is still kept."""
        if response_id not in self._stored:
            return None
        self._stored.move_to_end(response_id)
        return self._stored[response_id][0]

    def remove(self, response_id: str) -> bool:
        """Forget one; False when there is none."""
        if response_id not in self._stored:
            return False
        self._forget(response_id)
        return True

    def item(self, item_id: str) -> dict[str, Any] | None:
        """An item that a kept response was asked with or gave: of several under one id, the oldest."""
        return next(iter(self._items.get(item_id, {}).values()), None)

    def _forget(self, response_id: str) -> None:
        stored, size = self._stored.pop(response_id)
        self._num_bytes -= size
        for item in stored.own_items:
            owners = self._items.get(item["id"], {})
            owners.pop(response_id, None)
            if not owners:
                self._items.pop(item["id"], None)
