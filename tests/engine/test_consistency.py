"""A configuration that contradicts the tensors is refused before anything is built, in the right words."""

import json
import shutil
import time

import mlx.core as mx
import pytest

from engine.checkpoint.checkpoint import open_checkpoint
from engine.device import prepare_device
from engine.embedding.reader import build_reader, only_reads
from engine.errors import CheckpointCorrupt, CheckpointUnsupported
from engine.model import build_model


@pytest.fixture
def folder(tmp_path, request):
    """A copy of the fixture that the test names."""

    def copy(name, tensors=None, without=(), **changes):
        target = tmp_path / "model"
        shutil.copytree(request.config.rootpath / "tests" / "engine" / "architectures" / "fixtures" / name, target)
        config = json.loads((target / "config.json").read_text()) | changes
        (target / "config.json").write_text(json.dumps(config))
        if tensors or without:
            arrays = mx.load(str(target / "model.safetensors"))
            kept = {key: array for key, array in arrays.items() if not key.startswith(tuple(without))}
            mx.save_safetensors(str(target / "model.safetensors"), kept | (tensors or {}))
        return target

    return copy


def build(path):
    checkpoint = open_checkpoint(path)
    if only_reads(checkpoint):
        return build_reader(checkpoint, prepare_device("off"))
    return build_model(checkpoint, prepare_device("off"))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("llama", "num_hidden_layers"),
        ("bert", "num_hidden_layers"),
        ("distilbert", "n_layers"),
        ("gpt2", "n_layer"),
        ("t5", "num_decoder_layers"),
        ("bart", "encoder_layers"),
    ],
)
def test_millions_of_layers_are_refused_before_they_are_built(name, key, folder):
    start = time.process_time()
    with pytest.raises(CheckpointCorrupt, match=f"{key} is 10000000, but there are tensors of"):
        build(folder(name, **{key: 10_000_000}))
    assert time.process_time() - start < 5


@pytest.mark.parametrize("head", ["BertForTokenClassification", "BertForQuestionAnswering", "BertForMultipleChoice"])
def test_heads_for_words_and_spans_are_no_sentence_classifiers(head, folder):
    tensors = {"classifier.weight": mx.zeros((2, 32)), "classifier.bias": mx.zeros((2,))}
    with pytest.raises(CheckpointUnsupported, match=f"architectures = '{head}' is not supported"):
        build(folder("bert", tensors, architectures=[head]))


def test_a_head_for_spans_is_known_by_its_tensors(folder):
    with pytest.raises(CheckpointUnsupported, match="qa_outputs"):
        build(folder("bert", {"qa_outputs.weight": mx.zeros((2, 32))}, architectures=None))


def test_a_classifier_without_its_first_layer_is_one_of_words(folder):
    tensors = {"classifier.weight": mx.zeros((2, 32)), "classifier.bias": mx.zeros((2,))}
    with pytest.raises(CheckpointUnsupported, match="classifier"):
        build(folder("bert", tensors, without=("pooler.", "bert.pooler."), architectures=None))


def test_a_model_of_masked_words_reads_texts(folder):
    tensors = {"cls.predictions.bias": mx.zeros((96,)), "cls.predictions.transform.dense.bias": mx.zeros((32,))}
    assert build(folder("bert", tensors, architectures=["BertForMaskedLM"])).num_labels == 0


def test_a_tensor_that_the_family_does_not_have_is_no_damage(folder):
    with pytest.raises(CheckpointUnsupported, match=r"model\.vision\.weight.*not supported"):
        build(folder("llama", {"model.vision.weight": mx.zeros((2, 2))}))


def test_weights_of_another_kind_of_number_are_refused(folder):
    with pytest.raises(CheckpointCorrupt, match=r"model\.norm\.weight holds numbers of type uint32"):
        build(folder("llama", {"model.norm.weight": mx.ones((48,), mx.uint32)}))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("bert", {"num_attention_heads": 3}),
        ("gpt2", {"n_embd": 1}),
        ("gemma3", {"query_pre_attn_scalar": 0}),
        ("gemma3", {"hidden_activation": {"type": "linear"}}),
        ("llama", {"hidden_act": ["silu"]}),
        ("llama", {"hidden_act": "x" * 5000}),
    ],
)
def test_values_that_no_model_can_have_are_not_supported(name, changes, folder):
    with pytest.raises(CheckpointUnsupported) as caught:
        build(folder(name, **changes))
    assert len(str(caught.value)) < 1000


def test_half_of_a_surrogate_pair_in_a_file_is_damage(folder):
    with pytest.raises(CheckpointCorrupt, match="half of a surrogate pair"):
        build(folder("llama", hidden_act="\ud800"))
