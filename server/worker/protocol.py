"""The messages between parent and worker: msgspec structs in length-prefixed frames over one socketpair.

Plain values only, no pickle. A frame is 4 bytes of little-endian length and that many bytes of msgpack.
"""

import socket
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from engine.embedding.encoding import EncodingOutput, EncodingRequest
from engine.requests import GenerationRequest, StepOutput
from engine.settings import EngineSettings, EngineStats

MAX_FRAME_BYTES = 256 * 2**20
# The kinds of models that take Encode messages; all other kinds take Submit.
ENCODING_KINDS = ("embedder", "classifier")
_LENGTH = struct.Struct("<I")


class Submit(msgspec.Struct, tag=True):
    """Parent to worker: continue this sequence."""

    request: GenerationRequest


class Encode(msgspec.Struct, tag=True):
    """Parent to worker: make vectors or scores of these inputs."""

    request: EncodingRequest


class Cancel(msgspec.Struct, tag=True):
    """Parent to worker: stop this request, whose client has gone."""

    request_id: str


class Peek(msgspec.Struct, tag=True):
    """Parent to worker: how many tokens of this prompt are in the prefix cache?"""

    request_id: str
    prompt_ids: tuple[int, ...]


class Peeked(msgspec.Struct, tag=True):
    """Worker to parent: the number of a prompt's tokens that are in the prefix cache."""

    request_id: str
    cached_tokens: int


class Ready(msgspec.Struct, tag=True):
    """Worker to parent: the model is loaded. `info` holds the fields of engine.ModelInfo."""

    info: dict[str, Any]


class Loading(msgspec.Struct, tag=True):
    """Worker to parent: bytes of weights read so far."""

    done_bytes: int
    total_bytes: int


class LoadFailed(msgspec.Struct, tag=True):
    """Worker to parent: the model cannot be loaded, and the worker ends. `kind` is the error class's name."""

    kind: str
    message: str


class Outputs(msgspec.Struct, tag=True):
    """Worker to parent: the outputs of one step."""

    outputs: list[StepOutput]


class Encoded(msgspec.Struct, tag=True):
    """Worker to parent: the outputs of one batch of inputs."""

    outputs: list[EncodingOutput]


class RequestFailed(msgspec.Struct, tag=True):
    """Worker to parent: the engine did not take a request. `kind` is the error class's name."""

    request_id: str
    kind: str
    param: str
    message: str


class Heartbeat(msgspec.Struct, tag=True):
    """Worker to parent, every second and when the work has ended: the engine's loop is alive.

    stats: as of the last step; None while the model loads
    """

    stats: EngineStats | None = None


ToWorker = Submit | Encode | Cancel | Peek
ToParent = Ready | Loading | LoadFailed | Outputs | Encoded | RequestFailed | Heartbeat | Peeked

_encoder = msgspec.msgpack.Encoder()


def encode_settings(settings: EngineSettings) -> str:
    """An engine's settings as one argument of the worker's command line."""
    plain = {name: value for name, value in asdict(settings).items() if name != "before_launch"}
    return msgspec.json.encode(plain, enc_hook=str).decode()


def decode_settings(text: str) -> EngineSettings:
    """The settings that encode_settings has written. Raises ValueError for any other text."""
    plain = msgspec.json.decode(text, type=dict[str, Any])
    folder = plain.pop("prefix_folder", None)
    return EngineSettings(**plain, prefix_folder=None if folder is None else Path(folder))


def encode_frame(message: ToWorker | ToParent) -> bytes:
    """The message as one frame, length first."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


def frame_length(prefix: bytes) -> int:
    """Length of the body that follows a 4-byte prefix. Raises ValueError past MAX_FRAME_BYTES."""
    (length,) = _LENGTH.unpack(prefix)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"frame of {length} bytes; the limit is {MAX_FRAME_BYTES}")
    return int(length)


def read_frame(connection: socket.socket) -> bytes | None:
    """The next frame's body from a blocking socket, or None when the other side has closed."""
    prefix = _read_exactly(connection, _LENGTH.size)
    return None if prefix is None else _read_exactly(connection, frame_length(prefix))


def _read_exactly(connection: socket.socket, count: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        piece = connection.recv(min(count - len(parts), 1 << 20))
        if not piece:
            return None
        parts += piece
    return bytes(parts)
