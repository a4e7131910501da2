"""Rules of quantisation: which matrices, in how many bits. Knows a module's kind and name; knows no values.

- A matrix is quantised along its rows, so its columns have to be a multiple of the group size; others stay as they are.
- Routers of experts, tables of positions and of kinds of text, relative distances, and classifiers stay as they are:
  they are small, and an error there changes a choice instead of a number.
- Token vectors and the output head get at least 6 bits in affine mode, whatever is asked for: they are in use for every
  token, and an error there is an error of the predictions themselves.
- What is quantised already, in as few bits as asked for or fewer, stays as it is.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from engine.checkpoint.mlx_quantization import choices_of
from engine.checkpoint.tensors import Quantization, QuantizationMode
from engine.errors import ChoiceInvalid
from engine.layers.linear import Embedding, Weight

Role = Literal["linear", "vocabulary", "kept"]
Rule = Callable[[str, Weight, tuple[int, ...]], Quantization | None]

_KEPT = re.compile(
    r"(^|\.)(router|mlp\.gate|mixer\.gate|block_sparse_moe\.gate|mlp\.shared_expert_gate|wpe|places|types|distances|embed_positions"
    r"|relative_attention_bias|classifier|score|pooler|dense_head)(\.|$)"
)
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|decoder_head)$")
_BETTER = re.compile(r"(^|\.)(v_proj|down_proj)$")
_NUMBERED = re.compile(r"(?:^|\.)(?:layers|layer|h|block)\.(\d+)\.")
_SMALLEST_VOCABULARY_BITS = 6
# Fewer and more bits of mlx-lm's mixtures.
MIXTURES = {"mixed_2_6": (2, 6), "mixed_3_4": (3, 4), "mixed_3_6": (3, 6), "mixed_4_6": (4, 6)}


@dataclass(frozen=True, slots=True)
class QuantizationChoice:
    """The quantisation that is asked for, of every matrix that the rules allow.

    group_size, bits: None takes the mode's own
    Raises ChoiceInvalid for what MLX does not compute with.
    """

    bits: int | None = None
    group_size: int | None = None
    mode: QuantizationMode = "affine"

    def quantization(self) -> Quantization:
        """The numbers, checked."""
        group_sizes, bits = choices_of(self.mode)
        return Quantization(
            bits=_choice("bits", self.bits, bits, self.mode),
            group_size=_choice("group size", self.group_size, group_sizes, self.mode),
            mode=self.mode,
        )


def uniform(quantization: Quantization) -> Rule:
    """The rule that quantises everything alike, as far as the rules above allow."""

    def rule(path: str, module: Weight, shape: tuple[int, ...]) -> Quantization | None:
        return allowed(quantization, path, module, shape)

    return rule


def fixed_mixture(name: str, group_size: int | None, num_layers: int) -> Rule:
    """mlx-lm's mixtures by name, "mixed_LOW_HIGH": more bits for the head, and in some layers for values and down.

    Those layers are the first and last eighth, and every third between.
    Raises ChoiceInvalid for another name.
    """
    if name not in MIXTURES:
        raise ChoiceInvalid("recipe", f"{name} is not one of plain, mixed, {', '.join(MIXTURES)}")
    low, high = (QuantizationChoice(bits, group_size).quantization() for bits in MIXTURES[name])
    eighth = num_layers // 8

    def rule(path: str, module: Weight, shape: tuple[int, ...]) -> Quantization | None:
        layer = int(match[1]) if (match := _NUMBERED.search(path)) else 0
        chosen = layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2
        better = _HEAD.search(path) or (chosen and _BETTER.search(path))
        return allowed(high if better else low, path, module, shape)

    return rule


def allowed(quantization: Quantization, path: str, module: Weight, shape: tuple[int, ...]) -> Quantization | None:
    """The quantisation of a matrix when this one is asked for; None where the matrix stays as it is."""
    role = role_of(path, module)
    if role == "kept" or len(shape) < 2 or shape[-1] % quantization.group_size:
        return None
    if role == "vocabulary" and quantization.mode == "affine" and quantization.bits < _SMALLEST_VOCABULARY_BITS:
        return Quantization(_SMALLEST_VOCABULARY_BITS, quantization.group_size, quantization.mode)
    return quantization


def role_of(path: str, module: Weight) -> Role:
    """A module's role, as far as quantisation is concerned. path: in the model."""
    if _KEPT.search(path):
        return "kept"
    return "vocabulary" if isinstance(module, Embedding) or _HEAD.search(path) else "linear"


def stays_quantized(before: Quantization, wanted: Quantization) -> bool:
    """True when what is quantised already is not to be quantised again."""
    return before.bits <= wanted.bits


def _choice(option: str, value: int | None, choices: tuple[int, ...], mode: str) -> int:
    if value is None:
        return choices[0]
    if value not in choices:
        raise ChoiceInvalid(option, f"{value} is not one of {', '.join(map(str, choices))}, which {mode} can have")
    return value
