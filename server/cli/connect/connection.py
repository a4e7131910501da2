"""The address, key and model that a client is configured with, as values."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from server.exit_codes import CommandFailed

# Where no key is set, clients that insist on one send this, and the server takes it as it takes any.
NO_KEY = "none"
# Clients that can read their key from the environment are told to read it from here.
KEY_VARIABLE = "BRAMLEY_API_KEY"


class ConnectFailed(CommandFailed):
    """The settings cannot be written there; str() is one sentence."""


@dataclass(frozen=True, slots=True)
class Served:
    """A model behind an address.

    root: "http://127.0.0.1:8080", without /v1
    context_length: tokens of prompt and answer
    key: what opens the door; "" where none is needed
    """

    root: str
    model: str
    context_length: int
    key: str = ""
    embeds: bool = False

    @property
    def url(self) -> str:
        """The base URL of the OpenAI API."""
        return f"{self.root}/v1"


@dataclass(frozen=True, slots=True)
class Connection:
    """Settings of one client.

    text: to be put into the file at `path`, or to be used as it is where there is no such file
    merge: the file's new content from its present one; None where the file is Bramley's alone
    then: what to do next, in sentences
    has_key: a key stands in the text, so others may not read the file
    """

    text: str
    then: str
    path: Path | None = None
    merge: Callable[[str], str] | None = None
    has_key: bool = False
