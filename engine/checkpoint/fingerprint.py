"""A name for a model's weights: which numbers computed with them may be used again. Imports no mlx."""

import hashlib
import json

from engine.checkpoint.checkpoint import Checkpoint

_SAMPLE_BYTES = 256


def fingerprint(checkpoint: Checkpoint, kind: str) -> str:
    """A digest of configuration, tensor headers and a sample of every tensor.

    kind: whatever else the numbers depend on
    """
    digest = hashlib.sha256(f"{kind} {json.dumps(checkpoint.config, sort_keys=True, default=str)}".encode())
    for name, entry in sorted(checkpoint.tensors.items()):
        digest.update(f"{name} {entry.dtype} {entry.shape}".encode())
        with entry.file.open("rb") as file:
            file.seek(entry.offset + max(0, entry.num_bytes - _SAMPLE_BYTES) // 2)
            digest.update(file.read(min(_SAMPLE_BYTES, entry.num_bytes)))
    return digest.hexdigest()[:32]
