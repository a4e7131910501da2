"""DeepSeek V2 and Coder V2: attention over latent keys, experts chosen by a softmax (arXiv:2405.04434)."""

from engine.config import ConfigReader
from engine.configs.latent import read_latent_spec
from engine.layers.activations import ACTIVATIONS
from engine.layers.causal import Pointwise
from engine.layers.latent_lm import LatentLM
from engine.layers.mlp import GatedMLP
from engine.layers.routed_mlp import RoutedMLP
from engine.layers.router import Routing

_METHODS = ("greedy", "group_limited_greedy")


class Model(LatentLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        routing = _routing(config)
        spec = read_latent_spec(config, routing.num_experts, interleaved=True)
        hidden_size, inner_size = spec.attention.hidden_size, config.count("intermediate_size")
        expert_size = config.count("moe_intermediate_size", 1407)
        shared_size = config.count("n_shared_experts", 2) * expert_size
        num_dense = config.whole("first_k_dense_replace", 0)
        activation = config.choice("hidden_act", ACTIVATIONS, "silu")

        def mlp(layer: int) -> Pointwise:
            if layer < num_dense:
                return GatedMLP(hidden_size, inner_size, activation)
            return RoutedMLP(hidden_size, routing, expert_size, activation, shared_size=shared_size)

        super().__init__(spec, mlp)


def _routing(config: ConfigReader) -> Routing:
    config.expect("moe_layer_freq", 1)
    config.expect("scoring_func", "softmax")
    config.expect("norm_topk_prob", False)
    grouped = config.choice("topk_method", _METHODS, "greedy") == "group_limited_greedy"
    return Routing(
        config.count("n_routed_experts", 64),
        config.count("num_experts_per_tok"),
        "softmax",
        renormalise=False,
        factor=config.number("routed_scaling_factor", 1.0),
        num_groups=config.count("n_group", 1) if grouped else 1,
        num_chosen_groups=config.count("topk_group", 1) if grouped else 1,
    )
