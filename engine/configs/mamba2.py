"""Read the layers of Mamba-2 as Granite 4 and Falcon-H1 describe them. Knows keys; knows no arrays."""

from engine.config import ConfigReader
from engine.configs.convolutions import are_channels_last
from engine.layers.mamba import Mamba2Spec
from engine.layers.state_space import HeadSpaceSizes


def read_mamba2(
    config: ConfigReader, hidden_size: int, inner_size: int, *, eps: float | None, norm_first: bool
) -> Mamba2Spec:
    """The numbers of every layer of Mamba-2. eps, norm_first: of the gated norm; see Mamba2Spec."""
    num_heads, num_groups = config.count("mamba_n_heads", 128), config.count("mamba_n_groups", 1)
    bias = config.flag("mamba_proj_bias", default=False)
    return Mamba2Spec(
        hidden_size,
        HeadSpaceSizes(
            num_heads,
            config.optional_count("mamba_d_head") or inner_size // num_heads,
            num_groups,
            config.count("mamba_d_state", 256),
            *config.limits("time_step_limit"),
        ),
        config.count("mamba_d_conv", 4),
        conv_bias=config.flag("mamba_conv_bias", default=True),
        input_bias=bias,
        output_bias=config.flag("projectors_bias", default=bias),
        channels_last=are_channels_last(config, ".conv1d.weight"),
        eps=eps,
        norm_groups=num_groups,
        norm_first=norm_first,
    )
