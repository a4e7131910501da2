"""A decoder with its tokenizer, loaded to read windows of text, many at once and from their first token on."""

from engine.device import Device  # isort: skip  # first: loads the BLAS before mlx

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from engine.attention.uncached_batch import UncachedBatch
from engine.checkpoint.checkpoint import Checkpoint, open_checkpoint
from engine.evaluation.errors import ModelUnfit
from engine.layers.module import EncoderDecoder
from engine.model import CausalModel, OnProgress, build_model, is_encoder
from engine.text.load import load_tokenizer
from engine.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class LoadedDecoder:
    """A model that continues its own prompt, and the device it is prepared on."""

    name: str
    checkpoint: Checkpoint
    model: CausalModel
    tokenizer: Tokenizer
    device: Device

    def hidden(self, ids: mx.array, lengths: Sequence[int]) -> mx.array:
        """(rows, length) integers, padded on the right, to (rows, length, hidden_size). lengths: of each row."""
        return self.model(ids, UncachedBatch(self.model.cache, lengths))

    @property
    def context_length(self) -> int | None:
        """Tokens that the model was made for; None where its configuration does not say."""
        return self.checkpoint.context_length

    @property
    def num_parameters(self) -> int:
        """Numbers in its weights, those of quantised ones counted singly."""
        return self.checkpoint.num_parameters


def load_decoder(path: Path, device: Device, on_progress: OnProgress | None = None, name: str = "") -> LoadedDecoder:
    """Load a model that continues its own prompt.

    name: for reports; the path's own otherwise
    Raises CheckpointError and ModelUnfit.
    """
    checkpoint = open_checkpoint(path)
    name = name or path.name
    if is_encoder(checkpoint):
        raise ModelUnfit(name, "only reads texts; this is for models that write them")
    tokenizer = load_tokenizer(checkpoint)
    model = build_model(checkpoint, device, on_progress)
    if isinstance(model, EncoderDecoder):
        raise ModelUnfit(name, "has an encoder; this is for models that continue their own prompt")
    return LoadedDecoder(name, checkpoint, model, tokenizer, device)
