"""Read Gemma 4's configuration. Knows keys; knows no arrays."""

from dataclasses import dataclass

from engine.config import ConfigReader
from engine.configs.windowed import FULL, SLIDING, read_kinds, read_sliding_rope, read_sources
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes
from engine.layers.per_layer_inputs import LayerInputSizes
from engine.rope_spec import RopeSpec

_FULL_ROPE = {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0}


@dataclass(frozen=True, slots=True)
class ExpertMixture:
    """Sizes of the experts beside an MLP."""

    num_experts: int
    num_chosen: int
    inner_size: int


@dataclass(frozen=True, slots=True)
class Gemma4Spec:
    """The numbers of the whole model.

    kinds: per layer "sliding_attention" or "full_attention"
    sources: per layer the number of the layer whose keys and values it sees; its own in the first ones
    heads, ropes: by kind
    keys_are_values: in full layers, values are the keys before norm and rotation
    wide_readers: the MLPs of layers that read the keys of others have twice the width
    inputs: of vectors per layer and token; None where there are none
    experts: None where MLPs stand alone
    """

    vocab_size: int
    hidden_size: int
    kinds: list[str]
    sources: list[int]
    heads: dict[str, HeadSizes]
    ropes: dict[str, RopeSpec]
    window: int
    inner_size: int
    activation: str
    eps: float
    attention_bias: bool
    keys_are_values: bool
    wide_readers: bool
    inputs: LayerInputSizes | None
    experts: ExpertMixture | None
    tied: bool
    logit_softcap: float | None

    @property
    def num_own(self) -> int:
        """Layers that keep keys and values, which are the first ones."""
        return sum(source == layer for layer, source in enumerate(self.sources))


def read_gemma4(config: ConfigReader) -> Gemma4Spec:
    """The numbers of the whole model. Raises CheckpointUnsupported."""
    config.choice("use_bidirectional_attention", ("vision",), "vision")  # "all" is for embedders
    heads = HeadSizes(*config.heads(256), scale=1.0)
    kinds = read_kinds(config, config.count("num_hidden_layers"), 6)
    kinds[-1] = FULL
    keys_are_values = config.flag("attention_k_eq_v", default=False)
    eps = config.number("rms_norm_eps", 1e-6)
    activation = config.choice("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh")
    full = _full_heads(config, heads, keys_are_values=keys_are_values)
    return Gemma4Spec(
        vocab_size=config.count("vocab_size", 262_144),
        hidden_size=heads.hidden_size,
        kinds=kinds,
        sources=read_sources(config, kinds, 0),
        heads={SLIDING: heads, FULL: full},
        ropes={SLIDING: read_sliding_rope(config, heads.head_dim), FULL: _full_rope(config, full.head_dim)},
        window=config.count("sliding_window", 512),
        inner_size=config.count("intermediate_size"),
        activation=activation,
        eps=eps,
        attention_bias=config.flag("attention_bias", default=False),
        keys_are_values=keys_are_values,
        wide_readers=config.flag("use_double_wide_mlp", default=False),
        inputs=_inputs(config, heads.hidden_size, eps, activation),
        experts=_experts(config),
        tied=config.flag("tie_word_embeddings", default=True),
        logit_softcap=config.optional_number("final_logit_softcapping"),
    )


def _full_heads(config: ConfigReader, heads: HeadSizes, *, keys_are_values: bool) -> HeadSizes:
    num_kv_heads = heads.num_kv_heads
    if config.has("num_global_key_value_heads") and keys_are_values:
        num_kv_heads = config.count("num_global_key_value_heads")
    head_dim = config.count("global_head_dim", 512)
    return HeadSizes(heads.hidden_size, heads.num_heads, num_kv_heads, head_dim, scale=1.0)


def _full_rope(config: ConfigReader, head_dim: int) -> RopeSpec:
    reader = config if config.has("rope_parameters") else ConfigReader({"rope_parameters": _FULL_ROPE})
    return reader.rope(head_dim, 1_000_000.0, kind=FULL)


def _inputs(config: ConfigReader, hidden_size: int, eps: float, activation: str) -> LayerInputSizes | None:
    default = 256 if config.stores("model.embed_tokens_per_layer.weight") else 0
    width = int(config.number("hidden_size_per_layer_input", default))
    vocab_size = config.count("vocab_size_per_layer_input", 262_144)
    return LayerInputSizes(hidden_size, width, vocab_size, eps, activation) if width else None


def _experts(config: ConfigReader) -> ExpertMixture | None:
    if not config.flag("enable_moe_block", default=False):
        return None
    sizes = (config.count(key) for key in ("num_experts", "top_k_experts", "moe_intermediate_size"))
    return ExpertMixture(*sizes)
