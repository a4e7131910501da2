"""Answers of /embeddings as JSON. Knows vectors as bytes; knows nothing of workers or HTTP."""

from base64 import b64encode
from collections.abc import Sequence

import msgspec

from server.api.embeddings.schemas import Embedding
from server.generation.encoding import floats
from server.wire.usage import InputUsage


def embedding_list(vectors: Sequence[bytes], model_name: str, usage: InputUsage, *, in_base64: bool) -> bytes:
    """The answer as JSON, an EmbeddingList. Made vector by vector, so that other threads run in between."""
    data = b",".join(_embedding(index, vector, in_base64=in_base64) for index, vector in enumerate(vectors))
    head = msgspec.json.encode({"object": "list", "model": model_name, "usage": usage})
    return head[:-1] + b',"data":[' + data + b"]}"


def _embedding(index: int, vector: bytes, *, in_base64: bool) -> bytes:
    values = b64encode(vector).decode() if in_base64 else floats(vector)
    entry: Embedding = {"object": "embedding", "index": index, "embedding": values}
    return msgspec.json.encode(entry)
