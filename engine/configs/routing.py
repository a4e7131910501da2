"""Read DeepSeek V3's choice of experts, which others have taken over. Knows keys; knows no arrays."""

from engine.config import ConfigReader
from engine.layers.router import Routing


def read_corrected_routing(
    config: ConfigReader, *, num_experts: int, num_chosen: int, groups: tuple[int, int], factor: float
) -> Routing:
    """DeepSeek V3's choice of experts; the numbers are those that hold where the configuration does not say."""
    config.expect("scoring_func", "sigmoid")
    config.expect("topk_method", "noaux_tc")
    return Routing(
        config.count("n_routed_experts", num_experts),
        config.count("num_experts_per_tok", num_chosen),
        "sigmoid",
        renormalise=config.flag("norm_topk_prob", default=True),
        factor=config.number("routed_scaling_factor", factor),
        num_groups=config.count("n_group", groups[0]),
        num_chosen_groups=config.count("topk_group", groups[1]),
        best_of_group=2,
        corrected=True,
    )
