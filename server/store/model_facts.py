"""Facts about a model from its own files, without loading it: headers and small JSON files alone. Imports no MLX."""

from collections import Counter
from dataclasses import dataclass

from engine.checkpoint.checkpoint import Checkpoint, open_checkpoint
from engine.errors import CheckpointError
from server.store.stored_model import StoredModel


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Numbers of a model. None where its files do not say.

    num_parameters: of all tensors as they were before packing
    quantization: "none", or the kinds of packed matrices, the most frequent first
    trouble: why this version cannot read it, in one sentence; "" when it can
    """

    model_type: str = ""
    num_parameters: int | None = None
    context_length: int | None = None
    num_layers: int | None = None
    hidden_size: int | None = None
    vocab_size: int | None = None
    quantization: str = ""
    trouble: str = ""


def facts_of(model: StoredModel) -> ModelFacts:
    """Read the headers of a model."""
    try:
        checkpoint = open_checkpoint(model.path)
    except CheckpointError as error:
        return ModelFacts(trouble=str(error))
    config = checkpoint.config
    text = config.get("text_config", config)
    return ModelFacts(
        model_type=str(config.get("model_type", "")),
        num_parameters=checkpoint.num_parameters,
        context_length=checkpoint.context_length,
        num_layers=text.get("num_hidden_layers") or text.get("num_layers"),
        hidden_size=text.get("hidden_size") or text.get("d_model"),
        vocab_size=text.get("vocab_size"),
        quantization=_quantization(checkpoint),
    )


def _quantization(checkpoint: Checkpoint) -> str:
    if checkpoint.format == "gguf":
        kinds = Counter(entry.dtype for entry in checkpoint.tensors.values() if len(entry.shape) == 2)
        return ", ".join(kind for kind, _ in kinds.most_common())
    found = Counter(f"{each.bits}-bit {each.mode}" for each in checkpoint.quantization.values())
    return ", ".join(kind for kind, _ in found.most_common()) or "none"
