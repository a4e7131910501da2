"""Mamba-2: state spaces in every layer, and no attention at all (Dao and Gu 2024, arXiv:2405.21060)."""

from engine.config import ConfigReader
from engine.configs.convolutions import are_channels_last
from engine.layers.causal import CausalLM
from engine.layers.mamba import Mamba2, Mamba2Spec, MixerBlock, rename_backbone
from engine.layers.norm import RMSNorm
from engine.layers.state_space import HeadSpaceSizes


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        hidden_size, num_layers = config.count("hidden_size", 4096), config.count("num_hidden_layers", 64)
        eps = config.number("layer_norm_epsilon", 1e-5)
        spec = _spec(config, hidden_size, eps)
        super().__init__(
            config.count("vocab_size", 32768),
            hidden_size,
            [MixerBlock(Mamba2(layer, spec), RMSNorm(hidden_size, eps)) for layer in range(num_layers)],
            RMSNorm(hidden_size, eps),
            tied=config.flag("tie_word_embeddings", default=False),
            windows=[],
            num_states=num_layers,
        )

    def rename(self, name: str) -> str | None:
        """Our names for the frame."""
        return rename_backbone(name)


def _spec(config: ConfigReader, hidden_size: int, eps: float) -> Mamba2Spec:
    config.require("rms_norm", value=True)
    config.choice("hidden_act", ("silu", "swish"), "silu")
    bias = config.flag("use_bias", default=False)
    num_groups = config.count("n_groups", 8)
    space = HeadSpaceSizes(
        config.count("num_heads", 128),
        config.count("head_dim", 64),
        num_groups,
        config.count("state_size", 128),
        *config.limits("time_step_limit"),
    )
    return Mamba2Spec(
        hidden_size,
        space,
        config.count("conv_kernel", 4),
        conv_bias=config.flag("use_conv_bias", default=True),
        input_bias=bias,
        output_bias=bias,
        channels_last=are_channels_last(config, ".conv1d.weight"),
        eps=eps,
        norm_groups=num_groups,
    )
