"""An embedder through its public face: who is read with whom, who can be cancelled, and what is refused."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from engine.embedding.embedder import Embedder, EmbedderSettings
from engine.embedding.encoding import EncodingRequest, TokenInput
from engine.errors import ContextLengthExceeded, ParameterInvalid

FIXTURES = Path(__file__).parents[2] / "engine" / "architectures" / "fixtures"
BERT = FIXTURES / "bert"
LIMIT, VOCABULARY = 64, 96


@pytest.fixture(scope="module")
def bert():
    return Embedder(BERT)


def text(length: int, first: int = 5) -> TokenInput:
    return TokenInput(tuple(5 + (first + place) % 80 for place in range(length)))


def request(name: str, *lengths: int, **options) -> EncodingRequest:
    return EncodingRequest(name, tuple(text(length, index) for index, length in enumerate(lengths)), **options)


def drain(embedder) -> list:
    outputs = []
    while embedder.has_work:
        outputs += embedder.step()
    return outputs


def vector(output) -> np.ndarray:
    return np.frombuffer(output.values, "<f4")


def only(embedder, own: EncodingRequest) -> np.ndarray:
    embedder.submit(own)
    (output,) = drain(embedder)
    return vector(output)


def recorded(batches: list, max_batch_tokens: int) -> EmbedderSettings:
    """Settings under which every batch leaves its requests' names and lengths in the list."""
    return EmbedderSettings(
        max_batch_tokens=max_batch_tokens,
        before_batch=lambda batch: batches.append([(each.request.request_id, each.length) for each in batch]),
    )


def with_config(folder: Path, **keys) -> Path:
    shutil.copytree(BERT, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | keys))
    return folder


def with_weights(folder: Path, name: str, change) -> Path:
    shutil.copytree(BERT, folder)
    tensors = mx.load(str(folder / "model.safetensors"))
    tensors[name] = change(tensors[name])
    mx.eval(tensors)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tensors))
    return folder


def test_batches_keep_to_the_budget_with_their_padding():
    batches: list = []
    embedder = Embedder(BERT, recorded(batches, 60))
    lengths = [3, 40, 7, 12, 64, 11, 3, 30, 12, 8]
    embedder.submit(request("a", *lengths))
    outputs = drain(embedder)
    assert sorted(output.index for output in outputs) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(length for _, length in batch) <= 60 for batch in batches)
    assert all(2 * min(length for _, length in batch) >= max(length for _, length in batch) for batch in batches)
    assert len(batches) < len(lengths)


def test_requests_share_a_batch_and_a_short_one_does_not_wait_for_a_long_one():
    batches: list = []
    embedder = Embedder(BERT, recorded(batches, 64))
    embedder.submit(request("long", *[16] * 40))
    embedder.submit(request("short", 16))
    served = []
    while "short" not in served:
        served += [output.request_id for output in embedder.step()]
    assert len(batches) <= 2
    assert {"long", "short"} == {name for name, _ in batches[-1]}
    assert (embedder.num_running, embedder.num_waiting) == (1, 0)


def test_nobody_is_starved_by_those_who_keep_coming():
    embedder = Embedder(BERT, EmbedderSettings(max_batch_tokens=64))
    embedder.submit(request("patient", 3))
    seen: list[str] = []
    for number in range(4):
        embedder.submit(request(f"eager-{number}", 64, 64))
        seen += [output.request_id for output in embedder.step()]
    assert "patient" in seen


def test_a_cancelled_request_is_gone_with_the_next_batch():
    batches: list = []
    embedder = Embedder(BERT, recorded(batches, 64))
    embedder.submit(request("long", *[60] * 50))
    embedder.step()
    embedder.cancel("long")
    embedder.cancel("never heard of")
    assert not embedder.has_work
    assert embedder.step() == []
    assert len(batches) == 1
    embedder.submit(request("long", 5))
    assert len(drain(embedder)) == 1


def test_a_batch_that_fails_costs_its_inputs_alone():
    def fail(batch) -> None:
        if any(each.request.request_id == "bad" for each in batch):
            raise RuntimeError("injected")

    embedder = Embedder(BERT, EmbedderSettings(before_batch=fail))
    embedder.submit(request("bad", 60))
    embedder.submit(request("good", 5))
    by_name = {output.request_id: output for output in drain(embedder)}
    assert by_name["bad"].error_kind == "StepFailed"
    assert "injected" not in by_name["bad"].error
    assert np.isfinite(vector(by_name["good"])).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_output_that_is_no_number_is_an_error_of_that_input(tmp_path, bad):
    """Only token 9's vector is spoilt: its neighbours in the batch are not."""

    def spoil(words):
        words[9] = bad
        return words

    embedder = Embedder(with_weights(tmp_path / "bert", "embeddings.word_embeddings.weight", spoil))
    inputs = (TokenInput((5, 6, 7)), TokenInput((5, 9, 7)), TokenInput((8, 8)))
    embedder.submit(EncodingRequest("a", inputs))
    by_index = {output.index: output for output in drain(embedder)}
    assert by_index[1].error_kind == "NotFinite"
    assert by_index[1].values == b""
    assert "input[1]" in by_index[1].error
    clean = Embedder(BERT).encode([(5, 6, 7), (8, 8)])
    assert np.allclose([vector(by_index[0]), vector(by_index[2])], clean, atol=1e-6)


def test_vectors_are_cut_only_where_the_checkpoint_says_so(bert, tmp_path):
    with pytest.raises(ParameterInvalid, match="cannot be cut to 8"):
        bert.submit(request("a", 5, dimensions=8))
    assert only(bert, request("own", 5, dimensions=32)).size == 32
    listed = Embedder(with_config(tmp_path / "listed", matryoshka_dimensions=[8, 16]))
    for refused in (4, 33):
        with pytest.raises(ParameterInvalid) as error:
            listed.submit(request("a", 5, dimensions=refused))
        assert error.value.param == "dimensions"
    whole, cut = only(listed, request("a", 5)), only(listed, request("b", 5, dimensions=8))
    assert np.allclose(cut, whole[:8] / np.linalg.norm(whole[:8]), atol=1e-6)
    anything = Embedder(with_config(tmp_path / "any", is_matryoshka=True))
    assert only(anything, request("a", 5, dimensions=5)).size == 5


def test_length_one_can_be_asked_for_and_declined(bert):
    raw = only(bert, request("a", 9, normalize=False))
    assert abs(np.linalg.norm(raw) - 1) > 0.01
    assert np.allclose(only(bert, request("b", 9, normalize=True)), raw / np.linalg.norm(raw), atol=1e-6)


def test_inputs_that_cannot_be_read_are_refused_by_name(bert):
    for inputs, words in [
        ((), "is empty"),
        ((TokenInput(()),), "without a single token"),
        ((TokenInput((5, VOCABULARY)),), f"{VOCABULARY} is outside"),
        ((TokenInput((5, -1)),), "-1 is outside"),
        ((TokenInput((5, 6), types=(0,)),), "token types"),
        ((TokenInput((5, 6), types=(0, 2)),), "token types"),
    ]:
        with pytest.raises(ParameterInvalid, match=words) as error:
            bert.submit(EncodingRequest("a", inputs, param="texts"))
        assert error.value.param == "texts"
    with pytest.raises(ContextLengthExceeded, match=f"{LIMIT} tokens"):
        bert.submit(request("a", LIMIT + 1))
    assert not bert.has_work


def test_a_model_says_what_it_makes():
    info = Embedder(BERT, EmbedderSettings(context_length=20)).info
    assert (info.kind, info.context_length, info.embedding_size, info.num_labels) == ("embedder", 20, 32, 0)
    info = Embedder(FIXTURES / "bert-classifier-2").info
    assert (info.kind, info.context_length, info.embedding_size, info.num_labels) == ("classifier", LIMIT, 0, 2)


def test_a_prompt_is_left_out_of_the_mean_where_the_files_say_so(tmp_path):
    folder = shutil.copytree(BERT, tmp_path / "bert")
    (folder / "1_Pooling").mkdir()
    names = (("Transformer", ""), ("Pooling", "1_Pooling"))
    modules = [{"type": f"sentence_transformers.models.{name}", "path": path} for name, path in names]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"include_prompt": False}))
    embedder = Embedder(folder)
    reference = {name: np.array(array) for name, array in mx.load(str(folder / "fixture.safetensors")).items()}
    ids = tuple(reference["input_ids"][0].tolist())
    found = only(embedder, EncodingRequest("a", (TokenInput(ids, prompt_length=4),)))
    assert np.allclose(found, reference["last_hidden_state"][0, 4:].mean(axis=0), atol=1e-4)
