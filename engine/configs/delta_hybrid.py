"""Read what Qwen 3 Next, Qwen 3.5 and their mixtures of experts have in common. Knows keys; knows no arrays."""

from engine.config import ConfigReader
from engine.configs.convolutions import are_channels_last
from engine.layers.attention import HeadSizes
from engine.layers.delta import DeltaSizes
from engine.layers.delta_hybrid import DeltaHybridSpec


def read_delta_hybrid(config: ConfigReader) -> DeltaHybridSpec:
    """The numbers of the whole model. Raises CheckpointUnsupported."""
    heads = HeadSizes(*config.heads(256))
    return DeltaHybridSpec(
        vocab_size=config.count("vocab_size"),
        kinds=_kinds(config),
        heads=heads,
        delta=DeltaSizes(
            heads.hidden_size,
            config.count("linear_num_key_heads", 16),
            config.count("linear_num_value_heads", 32),
            config.count("linear_key_head_dim", 128),
            config.count("linear_value_head_dim", 128),
            config.count("linear_conv_kernel_dim", 4),
            tiled=config.flag("linear_value_heads_tiled", default=False),
        ),
        rope=config.rope(heads.head_dim, default_part=0.25),
        eps=config.number("rms_norm_eps", 1e-6),
        activation=config.choice("hidden_act", ("silu",), "silu"),
        attention_bias=config.flag("attention_bias", default=False),
        tied=config.flag("tie_word_embeddings", default=False),
        # The kernel alone tells: MLX's converters add 1 to the weights of norms when they turn it.
        offset_norms=not are_channels_last(config, ".linear_attn.conv1d.weight"),
    )


def _kinds(config: ConfigReader) -> tuple[str, ...]:
    num_layers, words = config.count("num_hidden_layers"), ("linear_attention", "full_attention")
    if config.has("layer_types"):
        return tuple(config.words("layer_types", words, num_layers, words[0]))
    interval = config.count("full_attention_interval", 4)
    return tuple(words[(layer + 1) % interval == 0] for layer in range(num_layers))
