"""A measurement of a model is what its logits say, however it is cut into batches."""

import json
import math
import shutil

import mlx.core as mx
import numpy as np
import pytest

from engine.attention.batch import Batch
from engine.cache.layout import Dense
from engine.cache.slots import lone_slot
from engine.device import prepare_device
from engine.errors import ChoiceInvalid
from engine.evaluation.decoder import LoadedDecoder, load_decoder
from engine.evaluation.errors import ModelsDiffer, ModelUnfit, OutputNotFinite, TextUnusable
from engine.evaluation.evaluate import EvaluationSettings, evaluate
from engine.evaluation.texts import Text, read_text

WINDOW = 40


@pytest.fixture(scope="module")
def loaded(readable):
    def make(name: str, kernels="off") -> LoadedDecoder:
        return load_decoder(readable(name), prepare_device(kernels))

    return make


def log_probabilities(decoder: LoadedDecoder, ids: list[int]) -> np.ndarray:
    """Of each next token, computed token by token as the server does."""
    slot, logits = lone_slot(decoder.model.cache, Dense(), len(ids)), []
    for token in ids[:-1]:
        batch = Batch([slot])
        hidden = decoder.model(mx.array([[token]]), batch)
        batch.advance(1)
        logits.append(np.array(decoder.model.logits(hidden)[0, 0], np.float64))
    table = np.array(logits)
    table -= table.max(-1, keepdims=True)
    return table - np.log(np.exp(table).sum(-1, keepdims=True))


def windows_of(decoder: LoadedDecoder, text: Text) -> list[list[int]]:
    ids = decoder.tokenizer.encode(text.content)
    return [ids[first : first + WINDOW] for first in range(0, len(ids), WINDOW)]


@pytest.mark.parametrize("batch_tokens", [WINDOW, 3 * WINDOW, 100 * WINDOW])
@pytest.mark.parametrize("kernels", ["off", "native"])
def test_perplexity_divergence_and_agreement_are_what_the_logits_say(loaded, text, batch_tokens, kernels):
    model, other = loaded("llama", kernels), loaded("qwen3", kernels)
    found = evaluate(model, other, text, EvaluationSettings(window_tokens=WINDOW, batch_tokens=batch_tokens))
    loss, divergence, agreed, count = 0.0, 0.0, 0, 0
    for ids in windows_of(model, text):
        own, reference = log_probabilities(loaded("llama"), ids), log_probabilities(loaded("qwen3"), ids)
        loss -= own[np.arange(len(ids) - 1), ids[1:]].sum()
        divergence += (np.exp(reference) * (reference - own)).sum()
        agreed += (own.argmax(-1) == reference.argmax(-1)).sum()
        count += len(ids) - 1
    assert found.num_tokens == found.total_tokens == count
    assert not found.partial
    assert found.perplexity == pytest.approx(math.exp(loss / count), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(loss / count / math.log(2), rel=1e-4)  # a token is a byte
    assert found.divergence == pytest.approx(divergence / count, rel=1e-3)
    assert found.agreement == pytest.approx(agreed / count, abs=0.02)
    assert found.read_speed > 0
    assert found.write_speed > 0


def test_a_model_is_no_distance_from_itself(loaded, text):
    found = evaluate(loaded("llama"), loaded("llama"), text, EvaluationSettings(window_tokens=WINDOW))
    assert abs(found.divergence) < 1e-5
    assert found.agreement == 1.0


def test_an_interrupted_measurement_is_of_what_was_read_and_says_so(loaded, text):
    seen = []
    settings = EvaluationSettings(window_tokens=WINDOW, batch_tokens=WINDOW)
    whole = evaluate(loaded("llama"), None, text, settings, report=seen.append)
    assert [each.done for each in seen] == sorted(each.done for each in seen)
    assert seen[-1].done == seen[-1].total == whole.num_tokens
    stops = iter([False, False, True, True])
    part = evaluate(loaded("llama"), None, text, settings, stop=lambda: next(stops))
    assert part.partial
    assert part.num_tokens == 2 * (WINDOW - 1)
    assert part.total_tokens == whole.total_tokens
    first = evaluate(loaded("llama"), None, text, EvaluationSettings(window_tokens=WINDOW, max_tokens=2 * WINDOW))
    assert part.perplexity == pytest.approx(first.perplexity)
    assert evaluate(loaded("llama"), None, text, settings, stop=lambda: True) is None


def test_parameters_are_counted_alike_packed_or_not(starter_model, loaded):
    from engine.checkpoint.checkpoint import open_checkpoint

    assert open_checkpoint(starter_model).num_parameters == 134_515_008
    decoder = loaded("llama")
    assert decoder.num_parameters == sum(array.size for array in decoder.model.parameters().values())


@pytest.mark.parametrize("window", [1, 129])
def test_a_window_beyond_the_context_is_refused(loaded, text, window):
    with pytest.raises(ChoiceInvalid, match="window"):
        evaluate(loaded("llama"), None, text, EvaluationSettings(window_tokens=window))


def test_models_of_different_vocabularies_are_not_compared(readable, loaded, text, tmp_path):
    from tokenizers import Tokenizer

    shutil.copytree(readable("llama"), tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    swapped = json.loads(file.read_text())
    vocabulary = swapped["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    file.write_text(Tokenizer.from_str(json.dumps(swapped)).to_str())
    other = load_decoder(tmp_path / "other", prepare_device("off"))
    with pytest.raises(ModelsDiffer, match="token 32"):
        evaluate(loaded("llama"), other, text, EvaluationSettings(window_tokens=WINDOW))


def test_weights_that_are_no_numbers_are_reported(readable, text, tmp_path):
    shutil.copytree(readable("llama"), tmp_path / "broken")
    weights = mx.load(str(tmp_path / "broken" / "model.safetensors"))
    weights["model.norm.weight"] = weights["model.norm.weight"] * mx.nan
    mx.save_safetensors(str(tmp_path / "broken" / "model.safetensors"), weights)
    with pytest.raises(OutputNotFinite):
        evaluate(load_decoder(tmp_path / "broken", prepare_device("off")), None, text, EvaluationSettings(WINDOW))


@pytest.mark.parametrize("name", ["t5", "bert"])
def test_models_that_do_not_continue_their_prompt_are_refused(readable, name):
    with pytest.raises(ModelUnfit):
        load_decoder(readable(name), prepare_device("off"))


def test_a_text_that_cannot_be_used_is_refused_with_the_reason(tmp_path, loaded):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 cr\xe8me")
    (tmp_path / "short.txt").write_text("x")
    with pytest.raises(TextUnusable, match="missing"):
        read_text(tmp_path / "none.txt", "held_out")
    with pytest.raises(TextUnusable, match="directory"):
        read_text(tmp_path, "held_out")
    with pytest.raises(TextUnusable, match="UTF-8"):
        read_text(tmp_path / "latin.txt", "held_out")
    with pytest.raises(TextUnusable, match="1 tokens"):
        evaluate(loaded("llama"), None, read_text(tmp_path / "short.txt", "held_out"), EvaluationSettings(WINDOW))


def test_the_samples_are_two_different_parts_of_some_tens_of_kilobytes():
    learned, held_out = (read_text(None, sample).content for sample in ("calibration", "held_out"))
    assert 50_000 < len(learned) < 70_000
    assert 20_000 < len(held_out) < 40_000
    assert not set(learned.split("\n\n")) & set(held_out.split("\n\n"))
