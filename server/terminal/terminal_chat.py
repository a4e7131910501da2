"""A conversation in the terminal, line by line. Knows prompts and keys; the answers come from a client."""

import contextlib
import re
import sys
from collections.abc import Mapping
from typing import Any

from server.terminal.chat_client import ChatClient, ChatFailed
from server.terminal.output import is_terminal, note

HELP = "Ctrl-C stops an answer, Ctrl-D or /bye ends, /reset forgets the conversation."
# Everything a terminal would obey, except line ends and tabs: the model's text is text.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class TerminalChat:
    """One conversation with one model.

    system: the system message, or ""
    options: further fields of each request
    """

    def __init__(self, client: ChatClient, model: str, *, system: str = "", options: Mapping[str, Any]) -> None:
        self._client = client
        self._model = model
        self._options = options
        self._opening = [{"role": "system", "content": system}] if system else []
        self._messages = list(self._opening)

    def answer(self, prompt: str) -> None:
        """Ask, and write the answer as it comes; an interrupted one stays in the conversation. Raises ChatFailed."""
        self._messages.append({"role": "user", "content": prompt})
        text = ""
        try:
            with contextlib.closing(self._client.answer(self._model, self._messages, self._options)) as pieces:
                for piece in pieces:
                    text += piece
                    _write(piece)
        finally:
            # The next question follows on whatever was answered, were it only half of it.
            if text:
                self._messages.append({"role": "assistant", "content": text})
                _write("\n")
            else:
                self._messages.pop()

    def talk(self) -> None:
        """Ask and answer until the person ends it."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401, PLC0415  # from here on input() edits lines and remembers them
        note(f"{self._model}. {HELP}")
        while (prompt := _read_prompt()) is not None:
            if prompt == "/bye":
                return
            if prompt == "/reset":
                self._messages = list(self._opening)
                note("The conversation starts again.")
            elif prompt.startswith("/"):
                note(HELP)
            elif prompt:
                self._answer_patiently(prompt)

    def _answer_patiently(self, prompt: str) -> None:
        try:
            self.answer(prompt)
        except KeyboardInterrupt:
            note("(stopped)")
        except ChatFailed as error:
            note(str(error))


def _read_prompt() -> str | None:
    """The next line, without blanks around it; None at the end of the input."""
    while True:
        try:
            return input(">>> ").strip()
        except EOFError:
            note("")
            return None
        except KeyboardInterrupt:
            note("\n(Ctrl-D ends)")


def _write(text: str) -> None:
    sys.stdout.write(_CONTROL.sub("", text) if is_terminal(sys.stdout) else text)
    sys.stdout.flush()
