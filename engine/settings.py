"""Settings of an engine, the description of its model, and its counts. Plain values: imports no mlx."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from engine.scheduler import Step

ENDLESS_TOKENS = 1 << 20  # of one answer: even what is endless has a bound

# Which kernels to use on the CPU: those for this machine, or a lower path of the same code, or none.
KernelChoice = Literal["native", "avx2", "portable", "off"]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The settings of an engine, whatever the model.

    max_rows: sequences that run at once
    prefill_chunk_tokens: prompt tokens read per step, at most
    max_gap_ms: how long a running stream may wait for its next token while others' prompts are read
    bits: quantise weights to so many bits as they are loaded; None leaves them as they are
    kv_bits: 8 or 4 keeps keys and values quantised; None keeps them as computed
    kv_bytes: of keys and values of running sequences, at most; None takes what the machine has to spare
    prefix_bytes: of those kept for sequences to come, in memory; None is a third of kv_bytes, 0 keeps nothing
    prefix_folder, prefix_disk_bytes: where they are also kept for later runs, and how much; None keeps none
    context_length: upper bound on the model's own; None leaves it
    endless: go on past the context without the oldest tokens, in models that read their own prompt
    kernels, threads: see engine.device.prepare_device
    before_launch: called with every step before it is computed; what it raises fails that step (fault injection)
    """

    max_rows: int = 16
    prefill_chunk_tokens: int = 512
    max_gap_ms: float = 200.0
    bits: int | None = None
    kv_bits: int | None = None
    kv_bytes: int | None = None
    prefix_bytes: int | None = None
    prefix_folder: Path | None = None
    prefix_disk_bytes: int = 4 << 30
    context_length: int | None = None
    endless: bool = False
    kernels: KernelChoice = "native"
    threads: int | None = None
    before_launch: Callable[[Step], None] | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The loaded model: its kind, limits and device. Lengths are tokens.

    kind: "decoder" continues its prompt; "encoder-decoder" reads it apart and writes from a fresh start; "embedder"
        makes a vector of a text, "classifier" scores
    context_length: prompt and answer together, as far as memory allows; each for itself where an encoder reads the
        prompt; of the longest text, where nothing is written
    endless: prompts and answers may be longer than the context; the oldest tokens are left out then
    embedding_size: numbers in a vector; num_labels: scores per text
    scores_prompts: can tell how likely each token of a prompt was
    left_out: parts of the files that are not loaded ("vision"), and how many tensors each has
    """

    model_type: str
    kind: Literal["decoder", "encoder-decoder", "embedder", "classifier"]
    context_length: int
    vocab_size: int
    num_layers: int
    weight_bytes: int
    quantization: str
    device: str
    dtype: str
    blas: str
    kernels: str
    advice: str
    endless: bool = False
    embedding_size: int = 0
    num_labels: int = 0
    scores_prompts: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)

    def room(self, prompt_tokens: int) -> int:
        """Tokens that may be generated after a prompt of this length."""
        if self.endless:
            return ENDLESS_TOKENS
        return self.context_length - (1 if self.kind == "encoder-decoder" else prompt_tokens)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The state of an engine. Bytes are of keys and values; tokens are counted since the start.

    kv_bytes, kv_limit_bytes: of running sequences, now and at most
    prefix_bytes, prefix_blocks: kept for sequences to come
    queried_tokens, cached_tokens: prompt tokens that were looked up in the prefix cache, and that were there
    num_preemptions: how often a sequence gave its slot back before its end
    num_damaged: files of the prefix store that were refused, and blocks that could not be written to it
    prefilled: tokens of each prompt that is being prefilled, so far, by request id
    """

    num_running: int
    num_waiting: int
    kv_bytes: int = 0
    kv_limit_bytes: int = 0
    prefix_bytes: int = 0
    prefix_blocks: int = 0
    queried_tokens: int = 0
    cached_tokens: int = 0
    num_preemptions: int = 0
    num_damaged: int = 0
    prefilled: dict[str, int] = field(default_factory=dict)
