"""DeepSeek V3 and R1, Kimi K2: latent keys, experts chosen by corrected sigmoids in groups (arXiv:2412.19437)."""

from engine.config import ConfigReader
from engine.configs.latent import read_latent_spec
from engine.configs.routing import read_corrected_routing
from engine.layers.activations import ACTIVATIONS
from engine.layers.causal import Pointwise
from engine.layers.latent_lm import LatentLM
from engine.layers.mlp import GatedMLP
from engine.layers.routed_mlp import RoutedMLP


class Model(LatentLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        config.expect("moe_layer_freq", 1)
        routing = read_corrected_routing(config, num_experts=256, num_chosen=8, groups=(8, 4), factor=2.5)
        interleaved = config.flag("rope_interleave", default=True)
        spec = read_latent_spec(config, routing.num_experts, interleaved=interleaved)
        hidden_size, inner_size = spec.attention.hidden_size, config.count("intermediate_size")
        expert_size = config.count("moe_intermediate_size", 2048)
        shared_size = config.count("n_shared_experts", 1) * expert_size
        num_dense = config.whole("first_k_dense_replace", 3)
        activation = config.choice("hidden_act", ACTIVATIONS, "silu")

        def mlp(layer: int) -> Pointwise:
            if layer < num_dense:
                return GatedMLP(hidden_size, inner_size, activation)
            return RoutedMLP(hidden_size, routing, expert_size, activation, shared_size=shared_size)

        super().__init__(spec, mlp)
