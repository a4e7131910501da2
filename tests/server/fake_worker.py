"""A worker without a model: real process, real frames, tokens by script. Token ids are bytes; 256 ends a text.

A prompt that is a JSON object is a script, any other is said back. Keys of a script:
  say, say_sampling, say_state   the reply: a text, the sampling parameters, or what this worker has seen
  delay_seconds, first_seconds   pause before each token, and before the first
  die_after, stop_after, fail_after   after so many tokens: SIGKILL, SIGSTOP, a step that failed
  refuse                         [error class, param, message]
  prefilled                      tokens of the prompt that count as prefilled until the first token
  prefix                         [found tokens, stored token, asked token] of the first output
A file load.json in the model's folder scripts the loading: seconds, fail, die; names `markers`, special tokens; and may
have a `context_length` and a `script` for every prompt that is none.
"""

import json
import math
import os
import queue
import re
import signal
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec

from engine.requests import GenerationRequest, PrefixNote, SampledToken, StepOutput
from engine.settings import EngineStats
from server.worker import protocol

END = 256
INFO = {
    "model_type": "fake",
    "kind": "decoder",
    "context_length": 4096,
    "vocab_size": 258,
    "num_layers": 0,
    "weight_bytes": 1000,
    "quantization": "none",
    "device": "cpu",
    "dtype": "none",
    "blas": "none",
    "kernels": "none",
    "advice": "",
    "scores_prompts": True,
}


@dataclass
class Row:
    request: GenerationRequest
    script: dict
    ids: list[int]
    due: float
    position: int = 0


@dataclass
class Worker:
    connection: socket.socket
    inbox: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)
    rows: dict[str, Row] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    markers: list[str] = field(default_factory=list)
    script: dict | None = None

    def send(self, message: protocol.ToParent) -> None:
        with self.lock:
            self.connection.sendall(protocol.encode_frame(message))

    def read_for_ever(self) -> None:
        decoder = msgspec.msgpack.Decoder(protocol.ToWorker)
        try:
            while (body := protocol.read_frame(self.connection)) is not None:
                self.inbox.put(decoder.decode(body))
        finally:
            os._exit(0)

    def beat_for_ever(self) -> None:
        while True:
            time.sleep(1)
            self.beat()

    def beat(self) -> None:
        rows = [row for row in list(self.rows.values()) if not row.position]
        prefilled = {row.request.request_id: row.script["prefilled"] for row in rows if "prefilled" in row.script}
        self.send(protocol.Heartbeat(EngineStats(num_running=len(self.rows), num_waiting=0, prefilled=prefilled)))

    def work_for_ever(self) -> None:
        while True:
            self.receive(
                None if not self.rows else max(0.0, min(row.due for row in self.rows.values()) - time.monotonic())
            )
            now = time.monotonic()
            outputs = [self.step(row) for row in list(self.rows.values()) if row.due <= now]
            if outputs:
                self.send(protocol.Outputs(outputs))

    def receive(self, patience: float | None) -> None:
        try:
            self.take(self.inbox.get(timeout=patience))
            while True:
                self.take(self.inbox.get_nowait())
        except queue.Empty:
            pass

    def take(self, message: protocol.ToWorker) -> None:
        if isinstance(message, protocol.Peek):
            self.send(protocol.Peeked(message.request_id, 0))
            return
        if isinstance(message, protocol.Cancel):
            self.cancelled.append(message.request_id)
            self.rows.pop(message.request_id, None)
            return
        request = message.request
        script = script_of(request, self.script)
        if "refuse" in script:
            kind, param, text = script["refuse"]
            self.send(protocol.RequestFailed(request.request_id, kind, param, text))
            return
        due = time.monotonic() + script.get("first_seconds", 0)
        self.rows[request.request_id] = Row(request, script, self.ids_of(self.reply(request, script)), due)
        if "prefilled" in script:
            self.beat()

    def ids_of(self, text: str) -> list[int]:
        ids = []
        for part in re.split("(" + "|".join(map(re.escape, self.markers)) + ")", text) if self.markers else [text]:
            ids += [258 + self.markers.index(part)] if part in self.markers else list(part.encode())
        return ids

    def reply(self, request: GenerationRequest, script: dict) -> str:
        if script.get("say_sampling"):
            return json.dumps(asdict(request.sampling))
        if script.get("say_state"):
            return json.dumps({"num_live": len(self.rows), "cancelled": self.cancelled[-9:], "process_id": os.getpid()})
        return script["say"]

    def prompt_scores(self, request: GenerationRequest) -> list[SampledToken]:
        if request.prompt_logprobs is None:
            return []
        return [scored(token_id, request.prompt_logprobs) for token_id in request.prompt_ids[1:]]

    def step(self, row: Row) -> StepOutput:
        for key, number in (("die_after", signal.SIGKILL), ("stop_after", signal.SIGSTOP)):
            if row.script.get(key) == row.position:
                os.kill(os.getpid(), number)
        if row.script.get("fail_after") == row.position:
            del self.rows[row.request.request_id]
            return StepOutput(row.request.request_id, None, error="The step failed.")
        sampling = row.request.sampling
        scores = () if row.position else tuple(self.prompt_scores(row.request))
        if sampling.max_tokens == 0:
            del self.rows[row.request.request_id]
            return StepOutput(row.request.request_id, None, "length", prompt_tokens=scores)
        if sampling.ignore_eos:
            token_id = row.ids[row.position % len(row.ids)]
        else:
            token_id = row.ids[row.position] if row.position < len(row.ids) else END
        note = PrefixNote(*row.script["prefix"]) if "prefix" in row.script and not row.position else None
        row.position += 1
        row.due = time.monotonic() + row.script.get("delay_seconds", 0)
        reason = "stop" if token_id == END else "length" if row.position >= sampling.max_tokens else None
        if reason:
            del self.rows[row.request.request_id]
        token = scored(token_id, sampling.logprobs)
        if sampling.logprob_ids:
            token = SampledToken(token_id, -0.5, tuple((each, named_logprob(each)) for each in sampling.logprob_ids))
        return StepOutput(row.request.request_id, token, reason, prefix=note, prompt_tokens=scores)


def scored(token_id: int, count: int | None) -> SampledToken:
    if count is None:
        return SampledToken(token_id)
    rivals = ((token_id, -0.5), (ord("x"), -1.5), (ord("y"), float("-inf")))
    return SampledToken(token_id, -0.5, rivals[:count])


def named_logprob(token_id: int) -> float:
    """A is half as likely as B, B as C, and so on."""
    return math.log(2) * (token_id - 100)


def script_of(request: GenerationRequest, default: dict | None) -> dict:
    text = bytes(token_id for token_id in request.prompt_ids if token_id < 256).decode(errors="replace")
    return json.loads(text) if text.startswith("{") else default or {"say": f"You said: {text}"}


def load(path: Path, worker: Worker) -> None:
    plan = json.loads((path / "load.json").read_text()) if (path / "load.json").exists() else {}
    worker.markers, worker.script = plan.get("markers", []), plan.get("script")
    worker.send(protocol.Loading(done_bytes=100, total_bytes=1000))
    time.sleep(plan.get("seconds", 0))
    if "die" in plan:
        os.kill(os.getpid(), signal.SIGKILL)
    if "fail" in plan:
        worker.send(protocol.LoadFailed("CheckpointCorrupt", plan["fail"]))
        sys.exit(3)
    worker.send(protocol.Ready(INFO | {"context_length": plan.get("context_length", INFO["context_length"])}))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    worker = Worker(socket.socket(fileno=int(sys.argv[1])))
    threading.Thread(target=worker.read_for_ever, daemon=True).start()
    threading.Thread(target=worker.beat_for_ever, daemon=True).start()
    load(Path(sys.argv[2]), worker)
    worker.work_for_ever()


if __name__ == "__main__":
    main()
