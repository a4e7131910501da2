"""Bits of each matrix's own under a size: the choice is the best there is, and the sizes are kept."""

import itertools

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Subwords
from tokenizers import decoders, models, pre_tokenizers

from engine.checkpoint.checkpoint import open_checkpoint
from engine.conversion.budget import Candidate, allocate, smallest_bytes
from engine.conversion.folder_writer import write_folder
from engine.conversion.mixed import quantize_mixed
from engine.conversion.quantize import quantize
from engine.device import prepare_device
from engine.errors import ChoiceInvalid
from engine.evaluation.decoder import load_decoder
from engine.evaluation.evaluate import EvaluationSettings, evaluate
from engine.evaluation.texts import Text
from engine.quantization_rules import QuantizationChoice


def ladder(errors):
    """Forms that halve their error, or better, for each step in size."""
    return [Candidate(step, 10 * (step + 1), error) for step, error in enumerate(errors)]


@given(
    st.lists(st.lists(st.floats(0.01, 100), min_size=2, max_size=4), min_size=2, max_size=4),
    st.integers(0, 120),
)
def test_no_other_choice_of_equal_size_loses_less_than_one_step_better(errors, spare):
    """The greedy choice is the best one for its own size, among steps that save ever less."""
    candidates = {str(i): ladder(np.minimum.accumulate(each)) for i, each in enumerate(errors)}
    budget = smallest_bytes(candidates) + spare
    chosen = allocate(candidates, budget)
    picked = [next(each for each in candidates[name] if each.form == form) for name, form in chosen.items()]
    size, loss = sum(each.num_bytes for each in picked), sum(each.loss for each in picked)
    assert size <= budget
    smaller = [
        sum(each.loss for each in one)
        for one in itertools.product(*candidates.values())
        if sum(each.num_bytes for each in one) <= size - 30
    ]
    assert all(loss <= other + 1e-9 for other in smaller)


LAYERS = 8
TEXT = Text("a sentence", "It was the best of times, it was the worst of times, it was the age of wisdom. " * 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model of eight layers that reads bytes, in `float`."""
    folder = tmp_path_factory.mktemp("mixed")
    shapes = {"model.embed_tokens.weight": (256, 64), "model.norm.weight": (64,)}
    for prefix in (f"model.layers.{layer}" for layer in range(LAYERS)):
        shapes |= {f"{prefix}.self_attn.{each}_proj.weight": (64, 64) for each in "qkvo"}
        shapes |= {f"{prefix}.mlp.{each}_proj.weight": (128, 64) for each in ("gate", "up")}
        shapes |= {f"{prefix}.mlp.down_proj.weight": (64, 128)}
        shapes |= {f"{prefix}.{each}_layernorm.weight": (64,) for each in ("input", "post_attention")}
    mx.random.seed(3)
    tensors = {
        name: (mx.random.normal(shape) * shape[-1] ** -0.5 if len(shape) > 1 else mx.ones(shape)).astype(mx.float16)
        for name, shape in shapes.items()
    }
    words = Subwords(models.BPE({text: number for number, text in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    write_folder(folder / "float", CONFIG, tensors, {"tokenizer.json": words.to_str().encode()})
    return folder


CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


def divergence(folder, name):
    """Of the model's predictions from those of the one in floats, per token."""
    device = prepare_device()
    small, large = load_decoder(folder / name, device), load_decoder(folder / "float", device)
    return evaluate(small, large, TEXT, EvaluationSettings(window_tokens=128)).divergence


def test_a_mixture_is_no_larger_than_what_it_replaces_and_loses_less(folder):
    plain = quantize(folder / "float", folder / "plain", QuantizationChoice(4))
    mixed = quantize_mixed(folder / "float", folder / "mixed", text=TEXT)
    assert 0.97 * plain.num_bytes <= mixed.num_bytes <= plain.num_bytes
    forms = set(open_checkpoint(folder / "mixed").quantization.values())
    assert len({how.bits for how in forms}) > 2
    assert divergence(folder, "mixed") < divergence(folder, "plain")


def test_a_larger_size_loses_less(folder):
    smaller = quantize_mixed(folder / "float", folder / "300", target_bytes=300_000, text=TEXT)
    larger = quantize_mixed(folder / "float", folder / "400", target_bytes=400_000, text=TEXT)
    assert smaller.num_bytes <= 300_000 < larger.num_bytes <= 400_000
    assert divergence(folder, "400") < divergence(folder, "300")


def test_a_size_that_cannot_be_is_refused_with_the_least(folder):
    with pytest.raises(ChoiceInvalid, match=r"target size: 0.0 MB are too few: 0\.\d MB is the least"):
        quantize_mixed(folder / "float", folder / "small", target_bytes=10_000, text=TEXT)
    assert not (folder / "small").exists()


def test_mlx_lm_s_mixtures_give_more_bits_where_it_does(folder):
    quantize(folder / "float", folder / "fixed", QuantizationChoice(), recipe="mixed_3_6")
    bits = {path: how.bits for path, how in open_checkpoint(folder / "fixed").quantization.items()}
    better = {int(path.split(".")[2]) for path, value in bits.items() if value == 6 and "v_proj" in path}
    assert better == {0, 3, 6, 7}
    assert bits["model.layers.0.self_attn.q_proj"] == 3
    assert bits["model.embed_tokens"] == 6
