"""GLM 4.7 Flash: latent keys as DeepSeek V3 has them, layers without experts where the configuration lists them."""

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
        routing = read_corrected_routing(config, num_experts=64, num_chosen=4, groups=(1, 1), factor=1.8)
        interleaved = config.flag("rope_interleave", default=True)
        spec = read_latent_spec(config, routing.num_experts, interleaved=interleaved, eps=1e-5)
        hidden_size, inner_size = spec.attention.hidden_size, config.count("intermediate_size", 10240)
        expert_size = config.count("moe_intermediate_size", 1536)
        shared_size = config.count("n_shared_experts", 1) * expert_size
        kinds = _kinds(config, spec.num_layers)
        activation = config.choice("hidden_act", ACTIVATIONS, "silu")

        def mlp(layer: int) -> Pointwise:
            if kinds[layer] == "dense":
                return GatedMLP(hidden_size, inner_size, activation)
            return RoutedMLP(hidden_size, routing, expert_size, activation, shared_size=shared_size)

        super().__init__(spec, mlp)


def _kinds(config: ConfigReader, num_layers: int) -> list[str]:
    """As mlp_layer_types says; the first files count the layers without experts."""
    num_dense = config.whole("first_k_dense_replace", 1)
    if config.has("mlp_layer_types"):
        return config.words("mlp_layer_types", ("dense", "sparse"), num_layers, "sparse")
    return ["dense" if layer < num_dense else "sparse" for layer in range(num_layers)]
