"""The description of a loaded model: its special tokens, its memory for keys and values, and ModelInfo."""

import logging
from typing import Any

from engine.cache.blocks import block_tokens
from engine.cache.disk import DiskTier
from engine.cache.kv_budget import KVBudget
from engine.cache.layout import Content
from engine.cache.prefix import PrefixStore
from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.fingerprint import fingerprint
from engine.device import Device
from engine.errors import CheckpointUnsupported
from engine.footprint import free_bytes
from engine.layers.module import EncoderDecoder
from engine.layers.rope import rotation_rule
from engine.model import CausalModel
from engine.settings import EngineSettings, ModelInfo

_log = logging.getLogger(__name__)
_UNLIMITED_CONTEXT = 2048  # for models whose positions are relative and have no end of their own


def end_ids(checkpoint: Checkpoint) -> frozenset[int]:
    """The tokens that end an answer. Raises CheckpointUnsupported."""
    return frozenset(_token_ids(checkpoint, "eos_token_id"))


def start_ids(checkpoint: Checkpoint) -> tuple[int, ...]:
    """The tokens that a decoder with its own start begins with; T5 means the padding token when it names none."""
    ids = _token_ids(checkpoint, "decoder_start_token_id") or _token_ids(checkpoint, "pad_token_id")
    if len(ids) != 1:
        raise CheckpointUnsupported("decoder_start_token_id", None, "one token id")
    return tuple(ids)


def weight_bytes_of(settings: EngineSettings, checkpoint: Checkpoint, model: CausalModel) -> int:
    """Bytes of weights: those on disk, or what was made of them."""
    if settings.bits is None:
        return checkpoint.num_bytes
    return sum(array.nbytes for array in model.parameters().values())


def kv_bytes_of(settings: EngineSettings, weight_bytes: int) -> int:
    """Three quarters of what is free; the rest is for prefixes."""
    return 3 * free_bytes(weight_bytes) // 4 if settings.kv_bytes is None else settings.kv_bytes


def prefix_store(
    settings: EngineSettings, checkpoint: Checkpoint, model: CausalModel, weight_bytes: int
) -> PrefixStore[Content]:
    """The prefix cache, with the blocks that earlier runs have left on disk."""
    limit_bytes = kv_bytes_of(settings, weight_bytes) // 3 if settings.prefix_bytes is None else settings.prefix_bytes
    size, needs_state = block_tokens(model.cache.windows), model.cache.num_states > 0
    if settings.prefix_folder is None or not limit_bytes:
        return PrefixStore(limit_bytes, size, needs_state=needs_state)
    # What changes the stored numbers besides the weights on disk.
    kind = f"{size} {settings.kv_bits}" if settings.bits is None else f"{size} {settings.kv_bits} {settings.bits}"
    if rotation_rule(model) is not None:
        kind += " rotated by length"
    try:
        tier = DiskTier(settings.prefix_folder / fingerprint(checkpoint, kind), settings.prefix_disk_bytes)
        store = PrefixStore(limit_bytes, size, tier, needs_state=needs_state)
        for path, is_snapshot in tier.known():
            store.adopt(path, is_snapshot=is_snapshot)
    except OSError as error:
        _log.warning("the folder of the prefix cache cannot be used, nothing is kept on disk: %s", error.strerror)
        return PrefixStore(limit_bytes, size, needs_state=needs_state)
    return store


def describe(
    checkpoint: Checkpoint, model: CausalModel, settings: EngineSettings, device: Device, kv_budget: KVBudget
) -> ModelInfo:
    """The loaded model's kind, limits and device."""
    config = checkpoint.config
    own = _UNLIMITED_CONTEXT if checkpoint.context_length is None else checkpoint.context_length
    limits = [limit for limit in (own, settings.context_length, kv_budget.longest) if limit is not None]
    return ModelInfo(
        model_type=config["model_type"],
        kind="encoder-decoder" if isinstance(model, EncoderDecoder) else "decoder",
        context_length=min(limits),
        vocab_size=config["vocab_size"],
        num_layers=model.cache.num_layers,
        weight_bytes=weight_bytes_of(settings, checkpoint, model),
        quantization=_quantization(checkpoint, settings.bits),
        device=device.kind,
        dtype=device.dtype_name,
        blas=device.blas,
        kernels=device.kernels,
        advice=device.advice,
        endless=settings.endless and not isinstance(model, EncoderDecoder),
        scores_prompts=not isinstance(model, EncoderDecoder),
        left_out=checkpoint.left_out,
    )


def _token_ids(checkpoint: Checkpoint, key: str) -> list[int]:
    """Special tokens: generation_config.json is the authority, config.json its fallback."""
    value: Any = checkpoint.generation_config.get(key, checkpoint.config.get(key))
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(each, bool) or not isinstance(each, int) for each in ids):
        raise CheckpointUnsupported(key, value, "a token id or a list of them")
    return ids


def _quantization(checkpoint: Checkpoint, bits: int | None) -> str:
    if bits is not None:
        return f"{bits}-bit on loading"
    kinds = sorted({f"{each.bits}-bit" for each in checkpoint.quantization.values()})
    return "+".join(kinds) or "none"
