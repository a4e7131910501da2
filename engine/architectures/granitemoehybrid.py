"""Granite 4: Mamba-2 with attention in some layers, experts beside a shared MLP, Granite's multipliers (IBM 2025)."""

from collections.abc import Iterable, Iterator

import mlx.core as mx

from engine.attention.batch import Batch
from engine.cache.spec import index_in_kind
from engine.config import ConfigReader
from engine.configs.mamba2 import read_mamba2
from engine.layers.activations import ACTIVATIONS
from engine.layers.attention import HeadSizes, SelfAttention
from engine.layers.causal import CausalLM, Mixing, Pointwise
from engine.layers.mamba import Mamba2
from engine.layers.mlp import FusedMLP, GatedMLP
from engine.layers.module import Module
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rope
from engine.layers.routed_mlp import RoutedMLP
from engine.layers.router import Routing

_KINDS = {"mamba": "linear_attention", "attention": "full_attention"}
_OURS = {
    ".mamba.": ".self_attn.",
    ".shared_mlp.input_linear.": ".shared_mlp.gate_up_proj.",
    ".shared_mlp.output_linear.": ".shared_mlp.down_proj.",
    ".router.layer.": ".gate.",
    ".block_sparse_moe.input_linear.": ".block_sparse_moe.switch_mlp.gate_proj.",
    ".block_sparse_moe.output_linear.": ".block_sparse_moe.switch_mlp.down_proj.",
}


class Block(Module):
    """A pre-norm block whose additions to the residual stream are multiplied; experts stand beside the shared MLP."""

    def __init__(
        self,
        mixer: Mixing,
        mlp: tuple[str, Pointwise],
        experts: RoutedMLP | None,
        norms: tuple[RMSNorm, RMSNorm],
        multiplier: float,
    ) -> None:
        self.self_attn = mixer
        setattr(self, *mlp)
        if experts is not None:
            self.block_sparse_moe = experts
        self.input_layernorm, self.post_attention_layernorm = norms
        self._pointwise: list[Pointwise] = [mlp[1]] if experts is None else [experts, mlp[1]]
        self._multiplier = multiplier

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        x = x + self.self_attn(self.input_layernorm(x), batch) * self._multiplier
        normed = self.post_attention_layernorm(x)
        added = [part(normed) for part in self._pointwise]
        return x + sum(added[1:], added[0]) * self._multiplier


class Model(CausalLM):
    """The whole model."""

    def __init__(self, config: ConfigReader) -> None:
        kinds = _kinds(config)
        hidden_size, eps = config.count("hidden_size", 4096), config.number("rms_norm_eps", 1e-6)
        multiplier = config.number("residual_multiplier", 1.0)
        super().__init__(
            config.count("vocab_size", 32000),
            hidden_size,
            [
                Block(mixer, _mlp(config), _experts(config), _norms(hidden_size, eps), multiplier)
                for mixer in _mixers(config, kinds, hidden_size, eps)
            ],
            RMSNorm(hidden_size, eps),
            tied=config.flag("tie_word_embeddings", default=False),
            windows=[None] * kinds.count("full_attention"),
            num_states=kinds.count("linear_attention"),
            embedding_scale=config.number("embedding_multiplier", 1.0),
            logit_scale=1 / config.number("logits_scaling", 1.0),
        )

    def rename(self, name: str) -> str | None:
        """Our names for the parts that both kinds of layers share; the experts' gates speak for what lies with them."""
        for theirs, ours in _OURS.items():
            name = name.replace(theirs, ours)
        return name

    def convert(self, tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
        """Part what lies in one stack for all experts."""
        yield from super().convert(_parted(tensors))


def _kinds(config: ConfigReader) -> list[str]:
    num_layers = config.count("num_hidden_layers", 32)
    words = config.words("layer_types", (*_KINDS, *_KINDS.values()), num_layers, "linear_attention")
    return [_KINDS.get(word, word) for word in words]


def _mixers(config: ConfigReader, kinds: list[str], hidden_size: int, eps: float) -> Iterator[Mixing]:
    sizes = HeadSizes(*config.heads(), scale=config.number("attention_multiplier", 1.0))
    positions = config.choice("position_embedding_type", ("rope", "nope"), "nope")
    spec = config.rope(sizes.head_dim)
    rope = Rope(spec) if positions == "rope" else None
    bias = config.flag("attention_bias", default=False)
    inner_size = config.count("mamba_expand", 2) * hidden_size
    for kind, index in zip(kinds, index_in_kind(kinds), strict=True):
        if kind == "full_attention":
            yield SelfAttention(index, sizes, rope, bias=bias, output_bias=bias)
        else:
            yield Mamba2(index, read_mamba2(config, hidden_size, inner_size, eps=eps, norm_first=False))


def _norms(hidden_size: int, eps: float) -> tuple[RMSNorm, RMSNorm]:
    return RMSNorm(hidden_size, eps), RMSNorm(hidden_size, eps)


def _mlp(config: ConfigReader) -> tuple[str, Pointwise]:
    """The dense part and its name: MLX stores gate and up apart where there are no experts."""
    sizes = config.count("hidden_size", 4096), config.count("shared_intermediate_size", 1024)
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    if config.shape_of_first(".mlp.gate_proj.weight") is not None:
        return "mlp", GatedMLP(*sizes, activation)
    return "shared_mlp", FusedMLP(*sizes, activation)


def _experts(config: ConfigReader) -> RoutedMLP | None:
    num_experts = config.optional_count("num_local_experts", least=0)
    if num_experts == 0:
        return None
    num_experts = 8 if num_experts is None else num_experts
    routing = Routing(num_experts, config.count("num_experts_per_tok", 2), "softmax", renormalise=True)
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    return RoutedMLP(config.count("hidden_size", 4096), routing, config.count("intermediate_size", 11008), activation)


def _parted(tensors: Iterable[tuple[str, mx.array]]) -> Iterator[tuple[str, mx.array]]:
    for name, array in tensors:
        if ".block_sparse_moe.input_linear." not in name:
            yield name, array
            continue
        for part, rows in zip(("gate_proj", "up_proj"), mx.split(array, 2, axis=1), strict=True):
            yield name.replace(".input_linear.", f".switch_mlp.{part}."), rows
