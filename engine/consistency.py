"""Hold a configuration against the stored tensors before anything is built from it. Knows no architecture."""

import re
from collections import defaultdict
from collections.abc import Iterator

from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.folder import open_file
from engine.checkpoint.tensors import TensorEntry
from engine.errors import CheckpointCorrupt, CheckpointUnsupported

_HEAD = "lm_head.weight"
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
_PIECE_BYTES = 1 << 20
_LAYER_KEYS = (
    *("num_hidden_layers", "num_layers", "n_layer", "n_layers"),
    *("encoder_layers", "decoder_layers", "num_decoder_layers"),
)
_INDEX = re.compile(r"(?<=\.)(?:0|[1-9]\d{0,8})(?=\.)", re.ASCII)
# Heads that give something else than a text, a vector, or scores of a whole text.
_OTHER_HEADS = (
    *("ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice", "ForNextSentencePrediction"),
    *("ForExtractiveQuestionAnswering", "ForImageClassification", "ForCTC", "ForAudioClassification"),
)
_SUPPORTED_HEADS = "models for text, embeddings, and scores of whole texts (ForSequenceClassification)"
_ANSWER_SPANS = "qa_outputs."
# A classifier of whole texts has two layers; one that has only the second scores every word.
_CLASSIFIER = "classifier.weight"
_FIRST_LAYERS = {"bert": "pooler.dense.weight", "distilbert": "pre_classifier.weight"}


def check_counts(checkpoint: Checkpoint) -> None:
    """Refuse a number of layers that the tensors cannot have. Raises CheckpointCorrupt."""
    numbered: dict[str, set[str]] = defaultdict(set)
    for name in checkpoint.tensors:
        for match in _INDEX.finditer(name):
            numbered[name[: match.start()]].add(match[0])
    most = max(map(len, numbered.values()), default=0)
    for key in _LAYER_KEYS:
        count = checkpoint.config.get(key)
        if type(count) is int and count > max(most, 1):
            file = "config.json" if checkpoint.gguf_metadata is None else checkpoint.path.name
            raise CheckpointCorrupt(file, f"{key} is {count}, but there are tensors of {most} layers")


def check_head(checkpoint: Checkpoint) -> None:
    """Refuse a head that is neither for text nor for whole texts, by its name or its tensors.

    A head for masked words is no hindrance: the model below it reads texts. Raises CheckpointUnsupported.
    """
    names = checkpoint.config.get("architectures")
    for name in names if isinstance(names, list) else ():
        if isinstance(name, str) and name.endswith(_OTHER_HEADS):
            raise CheckpointUnsupported("architectures", name[:128], _SUPPORTED_HEADS)
    if any(name.startswith(_ANSWER_SPANS) for name in checkpoint.tensors):
        raise CheckpointUnsupported("tensor", f"{_ANSWER_SPANS}weight", _SUPPORTED_HEADS)
    first = _FIRST_LAYERS.get(str(checkpoint.config.get("model_type")))
    if first and _CLASSIFIER in checkpoint.tensors and not any(name.endswith(first) for name in checkpoint.tensors):
        raise CheckpointUnsupported("tensor", _CLASSIFIER, _SUPPORTED_HEADS)


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
