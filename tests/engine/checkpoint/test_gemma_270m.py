"""Gemma 3 270M, a real Q4_K_M file as others made it: windows, four norms per block, 262,144 words."""

import pytest

from engine import Engine
from engine.checkpoint.checkpoint import open_checkpoint
from engine.device import prepare_device
from engine.evaluation.decoder import load_decoder
from engine.evaluation.evaluate import EvaluationSettings, evaluate
from engine.evaluation.texts import read_text
from engine.sampling.params import SamplingParams
from engine.text.load import load_tokenizer

# llama.cpp of October 2026 on the values of this file in F32: the first 1,022 tokens of the held-out sample in windows
# of 512. With the file as it is llama.cpp has 39.2466 there, as it rounds what it multiplies to 8 bits.
PERPLEXITY = 38.9728


def test_it_goes_on_sensibly(gemma_270m):
    tokenizer = load_tokenizer(open_checkpoint(gemma_270m))
    prompt = tuple(tokenizer.encode("Monday, Tuesday, Wednesday,"))
    (answer,) = Engine(gemma_270m).generate([prompt], SamplingParams(max_tokens=8, temperature=0))
    assert tokenizer.decode(answer).strip().startswith("Thursday, Friday, Saturday")


def test_its_perplexity_is_llama_cpp_s(gemma_270m):
    settings = EvaluationSettings(window_tokens=512, max_tokens=1022)
    found = evaluate(load_decoder(gemma_270m, prepare_device()), None, read_text(None, "held_out"), settings)
    assert found is not None
    assert found.num_tokens == 1022
    assert found.perplexity == pytest.approx(PERPLEXITY, rel=0.005)
