"""Tell a tied output head from one of its own, by the bytes that are stored. Knows names of tensors alone."""

from collections.abc import Iterator

from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.folder import open_file
from engine.checkpoint.tensors import TensorEntry

_HEAD = "lm_head.weight"
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
_PIECE_BYTES = 1 << 20


def has_own_head(checkpoint: Checkpoint) -> bool:
    """True when a stored head differs from the stored embedding: transformers uses it then, tied or not."""
    head = checkpoint.tensors.get(_HEAD)
    embeddings = [entry for name, entry in checkpoint.tensors.items() if name.endswith(_EMBEDDINGS)]
    if head is None or len(embeddings) != 1 or any(".encoder." in name for name in checkpoint.tensors):
        return False
    (embedding,) = embeddings
    if (head.dtype, head.shape) != (embedding.dtype, embedding.shape):
        return True
    return any(ours != theirs for ours, theirs in zip(_pieces(head), _pieces(embedding), strict=True))


def _pieces(entry: TensorEntry) -> Iterator[bytes]:
    with open_file(entry.file) as file:
        file.seek(entry.offset)
        for start in range(0, entry.num_bytes, _PIECE_BYTES):
            yield file.read(min(_PIECE_BYTES, entry.num_bytes - start))
