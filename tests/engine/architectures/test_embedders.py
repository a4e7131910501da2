"""Vectors of whole texts against what transformers and torch computed, alone and in any company."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from engine.checkpoint.checkpoint import open_checkpoint
from engine.embedding.embedder import Embedder, EmbedderSettings
from engine.text.load import load_tokenizer

FIXTURES = Path(__file__).parent / "fixtures"
SENTENCES = FIXTURES / "all-minilm-l6-v2"
MODES = {
    "cls": "cls_token",
    "max": "max_tokens",
    "mean": "mean_tokens",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens",
    "lasttoken": "lasttoken",
}


def of_kind(kind: str) -> list[Path]:
    return [row.parent for row in sorted(FIXTURES.glob("*/row.json")) if json.loads(row.read_text())["kind"] == kind]


def reference_of(path: Path) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in mx.load(str(path / "fixture.safetensors")).items()}


def texts_of(reference) -> list[list[int]]:
    lengths = reference["attention_mask"].sum(axis=1).tolist()
    return [row[:length] for row, length in zip(reference["input_ids"].tolist(), lengths, strict=True)]


def unit(vectors) -> np.ndarray:
    vectors = np.array(vectors, np.float64)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def write_modules(folder: Path, pooling: dict, kinds=("Transformer", "Pooling")) -> None:
    places = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [{"path": places[kind], "type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


@pytest.mark.parametrize("path", of_kind("encoder"), ids=lambda path: path.name)
def test_an_encoder_without_further_files_gives_the_mean_at_length_one(path):
    reference = reference_of(path)
    vectors = Embedder(path).encode(texts_of(reference))
    assert np.abs(np.array(vectors) - unit(reference["pooled_mean"])).max() <= 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_tokens_are_pooled_as_the_files_say(tmp_path, mode):
    folder = shutil.copytree(FIXTURES / "bert", tmp_path / "bert")
    write_modules(folder, {f"pooling_mode_{MODES[mode]}": True, "pooling_mode_mean_tokens": mode == "mean"})
    reference = reference_of(folder)
    vectors = Embedder(folder).encode(texts_of(reference))
    assert np.abs(np.array(vectors) - reference[f"pooled_{mode}"]).max() <= 1e-4


def test_several_ways_to_pool_are_joined_and_brought_to_length_one(tmp_path):
    folder = shutil.copytree(FIXTURES / "bert", tmp_path / "bert")
    write_modules(folder, {"pooling_mode": ["lasttoken", "mean"]}, ("Transformer", "Pooling", "Normalize"))
    reference = reference_of(folder)
    embedder = Embedder(folder)
    joined = np.concatenate([reference["pooled_lasttoken"], reference["pooled_mean"]], axis=1)
    assert np.abs(np.array(embedder.encode(texts_of(reference))) - unit(joined)).max() <= 1e-5
    assert embedder.info.embedding_size == joined.shape[1]


@pytest.mark.parametrize("path", of_kind("embedder"), ids=lambda path: path.name)
def test_a_decoder_is_pooled_as_its_files_say(path):
    reference = reference_of(path)
    embedder = Embedder(path)
    texts = texts_of(reference)
    assert np.abs(np.array(embedder.encode(texts)) - reference["embeddings"]).max() <= 1e-5
    for text, expected in zip(texts, reference["embeddings"], strict=True):
        assert np.abs(np.array(embedder.encode([text])[0]) - expected).max() <= 1e-5


def test_an_encoder_decoder_with_such_files_is_read_by_its_encoder_alone(tmp_path):
    folder = shutil.copytree(FIXTURES / "t5", tmp_path / "t5")
    write_modules(folder, {"pooling_mode_mean_tokens": True})
    embedder = Embedder(folder)
    assert embedder.info.kind == "embedder"
    assert np.isfinite(embedder.encode([[5, 6, 7]])).all()


@pytest.mark.parametrize("path", of_kind("classifier"), ids=lambda path: path.name)
def test_a_classifier_with_one_label_gives_a_sigmoid_and_others_logits(path):
    reference = reference_of(path)
    if "token_type_ids" in reference:
        pytest.skip("pairs are for the routes: test_rerank.py")
    logits = reference["logits"]
    expected = 1 / (1 + np.exp(-logits)) if logits.shape[1] == 1 else logits
    assert np.abs(np.array(Embedder(path).encode(texts_of(reference))) - expected).max() <= 1e-4


@pytest.fixture(scope="module")
def texts(embedding_model):
    tokenizer = load_tokenizer(open_checkpoint(embedding_model))
    return [tokenizer.encode(text) for text in json.loads((SENTENCES / "texts.json").read_text())]


@pytest.fixture(scope="module")
def reference():
    return unit(reference_of(SENTENCES)["embeddings"])


@pytest.fixture(scope="module")
def alone(embedding_model, texts):
    embedder = Embedder(embedding_model)
    return np.array([embedder.encode([text])[0] for text in texts])


def test_twenty_texts_alone_agree_with_the_reference(alone, reference):
    assert (unit(alone) * reference).sum(axis=1).min() >= 0.9999


@pytest.mark.parametrize("max_batch_tokens", [64, 4096])
def test_twenty_texts_in_any_batch_are_what_they_are_alone(embedding_model, texts, alone, reference, max_batch_tokens):
    embedder = Embedder(embedding_model, EmbedderSettings(max_batch_tokens=max_batch_tokens))
    together = embedder.encode([*texts, *reversed(texts)])
    assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-6
    for half in (together[: len(texts)], together[len(texts) :][::-1]):
        assert (unit(half) * reference).sum(axis=1).min() >= 0.9999
        assert (unit(half) * unit(alone)).sum(axis=1).min() >= 0.9999999
