"""Grammars are compiled one after the other, and none holds up the next for ever."""

import queue
import threading

from engine.errors import GrammarInvalid
from engine.requests import GenerationRequest
from engine.sampling.params import Grammar, SamplingParams
from server.worker.compiling import Compiling


class Compiler:
    """Never ends with the grammar "endless"."""

    def __init__(self):
        self.end = threading.Event()

    def compile(self, grammar):
        if grammar.lark == "endless":
            self.end.wait()
        return f"compiled {grammar.lark}"


def test_a_grammar_that_takes_too_long_is_refused_and_the_next_has_its_turn():
    reports = queue.SimpleQueue()
    compiler = Compiler()
    compiling = Compiling(compiler, reports.put, seconds=0.05)
    for name in ("endless", "short"):
        compiling.add(GenerationRequest(name, (1,), SamplingParams(max_tokens=1, grammar=Grammar(name))))
    refused, done = reports.get(timeout=60), reports.get(timeout=60)
    compiler.end.set()
    assert isinstance(refused.result, GrammarInvalid)
    assert "takes longer than 0.05 s" in str(refused.result)
    assert (done.request.request_id, done.result) == ("short", "compiled short")
