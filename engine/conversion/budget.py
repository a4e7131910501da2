"""Choose one of several forms for each matrix so that the whole loses least and is no larger than allowed.

Knows bytes and losses; knows no model. Losses are taken to add up.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Form = TypeVar("Form")


@dataclass(frozen=True, slots=True)
class Candidate(Generic[Form]):
    """A form that a matrix may take, its size, and what the model loses by it."""

    form: Form
    num_bytes: int
    loss: float


def smallest_bytes(candidates: Mapping[str, Sequence[Candidate[Form]]]) -> int:
    """The size where every matrix takes its smallest form."""
    return sum(min(each.num_bytes for each in of_one) for of_one in candidates.values())


def allocate(candidates: Mapping[str, Sequence[Candidate[Form]]], budget_bytes: int) -> dict[str, Form]:
    """The form of each matrix by its name. The sum of smallest forms has to fit.

    Begins with the smallest forms and takes, again and again, the step that saves most loss per byte and still fits.
    """
    ladders = {name: _ladder(of_one) for name, of_one in candidates.items()}
    left = budget_bytes - sum(ladder[0].num_bytes for ladder in ladders.values())
    rungs = dict.fromkeys(ladders, 0)
    steps = [(_gain(ladder, 0), name) for name, ladder in ladders.items() if len(ladder) > 1]
    heapq.heapify(steps)
    while steps:
        _, name = heapq.heappop(steps)
        ladder, rung = ladders[name], rungs[name]
        cost = ladder[rung + 1].num_bytes - ladder[rung].num_bytes
        if cost > left:
            continue  # nothing of this one fits any more
        left -= cost
        rungs[name] = rung + 1
        if rung + 2 < len(ladder):
            heapq.heappush(steps, (_gain(ladder, rung + 1), name))
    return {name: ladder[rungs[name]].form for name, ladder in ladders.items()}


def _ladder(candidates: Sequence[Candidate[Form]]) -> list[Candidate[Form]]:
    """From the smallest on, those that lose less than any mixture of the others: each step saves less than the last."""
    hull: list[Candidate[Form]] = []
    for each in sorted(candidates, key=lambda candidate: (candidate.num_bytes, candidate.loss)):
        if hull and each.loss >= hull[-1].loss:
            continue
        while len(hull) > 1 and _slope(hull[-2], each) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(each)
    return hull


def _gain(ladder: Sequence[Candidate[Form]], rung: int) -> float:
    return _slope(ladder[rung], ladder[rung + 1])


def _slope(low: Candidate[Form], high: Candidate[Form]) -> float:
    return (high.loss - low.loss) / max(1, high.num_bytes - low.num_bytes)
