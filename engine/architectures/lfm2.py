"""LFM2: gated short convolutions, and attention in some layers (Liquid AI 2025, arXiv:2511.23404)."""

from engine.cache.spec import index_in_kind
from engine.config import ConfigReader
from engine.configs.convolutions import are_channels_last
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM, PreNormBlock
from engine.layers.convolution import ShortConvolution
from engine.layers.mlp import GatedMLP
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope

_OURS = {
    "embedding_norm": "norm",
    "operator_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "out_proj": "o_proj",
    "q_layernorm": "q_norm",
    "k_layernorm": "k_norm",
    ".conv.": ".self_attn.",
}


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        sizes = HeadSizes(*config.heads())
        kinds = _kinds(config)
        indices = index_in_kind(kinds)
        eps = config.number("norm_eps", 1e-5)
        rope = Rope(config.rope(sizes.head_dim, 1_000_000.0))
        inner_size = _inner_size(config)
        super().__init__(
            config.count("vocab_size"),
            sizes.hidden_size,
            [
                PreNormBlock(
                    _mixer(config, kind, index, sizes, rope),
                    GatedMLP(sizes.hidden_size, inner_size, "silu"),
                    RMSNorm(sizes.hidden_size, eps),
                    RMSNorm(sizes.hidden_size, eps),
                )
                for kind, index in zip(kinds, indices, strict=True)
            ],
            RMSNorm(sizes.hidden_size, eps),
            tied=config.flag("tie_embedding", default=config.flag("tie_word_embeddings", default=True)),
            windows=[None] * kinds.count("full_attention"),
            num_states=kinds.count("conv"),
        )

    def rename(self, name: str) -> str | None:
        """Our names for the parts that both kinds of layers share."""
        for theirs, ours in _OURS.items():
            name = name.replace(theirs, ours)
        return name


def _kinds(config: ConfigReader) -> list[str]:
    num_layers = config.count("num_hidden_layers")
    if config.has("layer_types"):
        return config.words("layer_types", ("conv", "full_attention"), num_layers, "full_attention")
    attending = config.integers("full_attn_idxs") or range(num_layers)
    return ["full_attention" if layer in attending else "conv" for layer in range(num_layers)]


def _mixer(
    config: ConfigReader, kind: str, index: int, sizes: HeadSizes, rope: Rope
) -> SelfAttention | ShortConvolution:
    if kind == "conv":
        width, biased = config.count("conv_L_cache", 3), config.flag("conv_bias", default=False)
        last = are_channels_last(config, ".conv.conv.weight")
        return ShortConvolution(index, sizes.hidden_size, width, bias=biased, channels_last=last)
    eps = config.number("norm_eps", 1e-5)
    return SelfAttention(index, sizes, rope, q_norm=RMSNorm(sizes.head_dim, eps), k_norm=RMSNorm(sizes.head_dim, eps))


def _inner_size(config: ConfigReader) -> int:
    """The width of the feed-forward layers; the first release stored it before it was adjusted."""
    size = config.count("block_ff_dim", config.count("intermediate_size", 12288))
    if not config.flag("block_auto_adjust_ff_dim", default=True):
        return size
    size = int(config.number("block_ffn_dim_multiplier", 1.0) * int(2 * size / 3))
    multiple = config.count("block_multiple_of", 256)
    return -(-size // multiple) * multiple
