"""A loaded model that reads whole texts: one face over encoders, and over decoders whose last layer is pooled."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import mlx.core as mx

from engine.attention.uncached_batch import UncachedBatch
from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.folder import ModelFolder
from engine.device import Device
from engine.embedding.sentence_settings import MODULES_FILE
from engine.errors import CheckpointUnsupported
from engine.layers.encoder import Encoder
from engine.model import CausalModel, OnProgress, build_encoder, build_model, is_encoder

_UNLIMITED_LENGTH = 2048  # for models whose positions are relative and have no end of their own


class Reader(Protocol):
    """A model that makes vectors of tokens.

    max_length: tokens of the longest text; hidden_size: of a token's vector
    num_labels: outputs of the classifier on top; 0 without one
    """

    max_length: int
    hidden_size: int
    num_labels: int

    def read(self, ids: mx.array, types: mx.array, lengths: Sequence[int]) -> mx.array:
        """Vectors of all tokens.

        ids, types: (batch, length) integers, padded on the right; lengths: tokens of each text
        Returns (batch, length, hidden_size).
        """

    def scores(self, hidden: mx.array, lengths: Sequence[int]) -> mx.array:
        """The classifier's outputs, not normalised: (batch, length, hidden_size) to (batch, num_labels)."""


def only_reads(checkpoint: Checkpoint) -> bool:
    """True for embedders and classifiers: encoders, and decoders with sentence-transformers' files beside them."""
    if _is_classifier(checkpoint) or is_encoder(checkpoint):
        return True
    return checkpoint.format == "safetensors" and ModelFolder(checkpoint.path).has(MODULES_FILE)


def build_reader(
    checkpoint: Checkpoint, device: Device, on_progress: OnProgress | None = None, bits: int | None = None
) -> Reader:
    """Build a model for which only_reads holds. Raises as build_model does."""
    checkpoint = _without_decoder(checkpoint)
    if is_encoder(checkpoint):
        return EncoderReader(build_encoder(checkpoint, device, on_progress, bits))
    if _is_classifier(checkpoint):
        raise CheckpointUnsupported("architectures", checkpoint.config["architectures"], "classifiers over encoders")
    if checkpoint.config.get("is_causal") is False:
        raise CheckpointUnsupported("is_causal", False, "true for decoders")
    both_ways = checkpoint.config.get("use_bidirectional_attention") is True
    model = build_model(_without_head(checkpoint), device, on_progress, bits)
    return DecoderReader(model, checkpoint.context_length, both_ways=both_ways)


class EncoderReader:
    """An encoder, with or without a classifier."""

    def __init__(self, model: Encoder) -> None:
        self._model = model
        self.max_length = model.max_length
        self.hidden_size = model.hidden_size
        self.num_labels = model.num_labels

    def read(self, ids: mx.array, types: mx.array, lengths: Sequence[int]) -> mx.array:
        """See Reader. A model that knows one kind of text takes all tokens for that kind."""
        types = types if self._model.num_types > 1 else mx.zeros_like(types)
        return self._model(ids, _mask(ids, lengths), types)

    def scores(self, hidden: mx.array, lengths: Sequence[int]) -> mx.array:
        """See Reader."""
        return self._model.scores(hidden, _mask(hidden, lengths))


class DecoderReader:
    """A decoder without its head.

    max_length: None where the configuration has none
    both_ways: every token sees the later ones too
    """

    num_labels = 0

    def __init__(self, model: CausalModel, max_length: int | None, *, both_ways: bool = False) -> None:
        self._model = model
        self._both_ways = both_ways
        self.max_length = max_length or _UNLIMITED_LENGTH
        token = mx.zeros((1, 1), mx.int32)
        self.hidden_size = self.read(token, token, [1]).shape[-1]

    def read(self, ids: mx.array, types: mx.array, lengths: Sequence[int]) -> mx.array:
        """See Reader; there are no kinds of text."""
        return self._model(ids, UncachedBatch(self._model.cache, lengths, both_ways=self._both_ways))

    def scores(self, hidden: mx.array, lengths: Sequence[int]) -> mx.array:
        """There is no classifier."""
        raise NotImplementedError


def _mask(padded: mx.array, lengths: Sequence[int]) -> mx.array:
    return mx.arange(padded.shape[1]) < mx.array(list(lengths))[:, None]


def _is_classifier(checkpoint: Checkpoint) -> bool:
    names = checkpoint.config.get("architectures")
    return isinstance(names, list) and any(str(name).endswith("ForSequenceClassification") for name in names)


def _without_decoder(checkpoint: Checkpoint) -> Checkpoint:
    """Of an encoder-decoder with sentence-transformers' files only the encoder is meant."""
    if checkpoint.config.get("model_type") not in ("t5", "mt5"):
        return checkpoint
    kept = {name: entry for name, entry in checkpoint.tensors.items() if not name.startswith(("decoder.", "lm_head."))}
    return replace(checkpoint, tensors=kept)


def _without_head(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as the whole model would be stored: embedders are often saved without head and prefix.

    Attention in both directions is how the rows are read; its window counts the tokens of both sides.
    """
    config = {**checkpoint.config, "tie_word_embeddings": True}
    if config.get("use_bidirectional_attention") is True:
        window = config.get("sliding_window")
        config["use_bidirectional_attention"] = False
        config["sliding_window"] = window // 2 + 1 if isinstance(window, int) else window
    if any(name.startswith("model.") for name in checkpoint.tensors) or "embed_tokens.weight" not in checkpoint.tensors:
        return replace(checkpoint, config=config)
    tensors = {f"model.{name}": replace(entry, name=f"model.{name}") for name, entry in checkpoint.tensors.items()}
    quantization = {f"model.{path}": each for path, each in checkpoint.quantization.items()}
    return replace(checkpoint, config=config, tensors=tensors, quantization=quantization)
