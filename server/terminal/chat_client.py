"""Talk to a running server over its own HTTP API, streaming. Knows the wire; knows no terminal and no model files."""

import http.client
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any
from urllib.parse import quote

# The first request waits for its model to load.
ANSWER_SECONDS = 900.0
ASK_SECONDS = 2.0
_MAX_BYTES = 16 << 20
_NOT_OURS = "The server answered with something that is not of this API."


class ChatFailed(Exception):
    """The server refused, or went away. str() is one sentence."""


def reachable(host: str) -> str:
    """The address at which this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host).strip("[]")  # noqa: S104  # nothing is bound here


class ChatClient:
    """A server at host and port; an empty key sends none. ask_seconds: patience with short questions."""

    def __init__(self, host: str, port: int, key: str = "", ask_seconds: float = ASK_SECONDS) -> None:
        self._host = host
        self._port = port
        self._ask_seconds = ask_seconds
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})

    @property
    def url(self) -> str:
        """The base URL of the API."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}/v1"

    def is_up(self) -> bool:
        """True when a server answers there, be its model loaded or not."""
        return self._ask("GET", "/health")[0] == http.HTTPStatus.OK

    def serves(self, model: str) -> bool:
        """True when a server answers there and has this model."""
        return self._ask("GET", f"/v1/models/{quote(model, safe='')}")[0] == http.HTTPStatus.OK

    def is_bramley(self) -> bool | None:
        """Whether it is Bramley that answers there, and takes the key; None where nothing answers in time."""
        status, body = self._ask("GET", "/v1/models")
        if status == 0:
            return None
        try:
            return any(card["owned_by"] == "bramley" for card in body["data"])
        except (TypeError, KeyError):
            return False

    def models(self) -> Sequence[Mapping[str, Any]]:
        """The models that GET /v1/models lists; none where no server answers or the key does not fit."""
        status, body = self._ask("GET", "/v1/models")
        return body["data"] if status == http.HTTPStatus.OK else ()

    def ask(self, method: str, path: str, *, patient: bool = False) -> Any:
        """The JSON that a route answers with. Raises ChatFailed where nobody answers or the answer is a refusal.

        patient: the answer may take as long as one of a model
        """
        status, body = self._ask(method, path, ANSWER_SECONDS if patient else self._ask_seconds)
        if status == 0:
            raise ChatFailed(f"No server answers at {self.url}: `bramley serve` starts one.")
        if status != http.HTTPStatus.OK:
            raise ChatFailed(_message(json.dumps(body).encode()))
        return body

    def answer(
        self, model: str, messages: Sequence[Mapping[str, str]], options: Mapping[str, Any]
    ) -> Generator[str, None, None]:
        """The pieces of the answer as they come. Closing the iterator stops the work. Raises ChatFailed."""
        body = json.dumps({"model": model, "messages": list(messages), "stream": True, **options})
        try:
            with closing(http.client.HTTPConnection(self._host, self._port, timeout=ANSWER_SECONDS)) as connection:
                connection.request("POST", "/v1/chat/completions", body, self._headers)
                response = connection.getresponse()
                if response.status != http.HTTPStatus.OK:
                    raise ChatFailed(_message(response.read(1 << 20)))
                yield from _pieces(response)
        except (OSError, http.client.HTTPException) as error:
            raise ChatFailed(f"The connection to the server was lost ({type(error).__name__}).") from None

    def _ask(self, method: str, path: str, seconds: float | None = None) -> tuple[int, Any]:
        """Status and JSON of a short question; 0 where no server answers, None where it is not JSON."""
        timeout = self._ask_seconds if seconds is None else seconds
        try:
            with closing(http.client.HTTPConnection(self._host, self._port, timeout=timeout)) as connection:
                connection.request(method, path, headers=self._headers)
                response = connection.getresponse()
                body = response.read(_MAX_BYTES)
        except (OSError, http.client.HTTPException):
            return 0, None
        try:
            return response.status, json.loads(body)
        except ValueError:
            return response.status, None


def _pieces(response: http.client.HTTPResponse) -> Iterator[str]:
    for line in response:
        name, _, data = line.strip().partition(b":")
        if name != b"data":
            continue
        if data.strip() == b"[DONE]":
            return
        if text := _text(data):
            yield text
    raise ChatFailed("The server went away in the middle of the answer.")


def _text(data: bytes) -> str:
    """The text that one event adds to the answer. Raises ChatFailed for an error event, or for no event of this API."""
    try:
        event = json.loads(data)
        if "error" in event:
            raise ChatFailed(_message(data))
        return "".join(choice["delta"].get("content") or "" for choice in event["choices"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ChatFailed(_NOT_OURS) from None


def _message(body: bytes) -> str:
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return _NOT_OURS
    return str(message)
