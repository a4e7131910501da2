"""One finding of the doctor, as a value."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "failure"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: its subject, its result in a few words, and how to mend the fault; no mending where there is none."""

    name: str
    state: State
    found: str
    mend: str = ""


def ok(name: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(name, "ok", found)


def warning(name: str, found: str, mend: str) -> Finding:
    """It works, yet not as well as it could."""
    return Finding(name, "warning", found, mend)


def failure(name: str, found: str, mend: str) -> Finding:
    """It does not work like this."""
    return Finding(name, "failure", found, mend)
