"""/rerank and /score over the real worker, with the logits that transformers gives for the same random weights."""

import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

REAL = Path(__file__).parents[2] / "real_serve.py"
FIXTURES = Path(__file__).parents[3] / "engine" / "architectures" / "fixtures"
LIMIT = 64


def make_model(folder: Path, fixture: str) -> Path:
    """The fixture, with a tokenizer that spells token 7 as w7 and tells the texts of a pair by their types."""
    path = folder / fixture
    shutil.copytree(FIXTURES / fixture, path)
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(96)}, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A:0 $B:1", special_tokens=[])
    tokenizer.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture(scope="module")
def client(launch, tmp_path_factory):
    path = make_model(tmp_path_factory.mktemp("models"), "bert-classifier-pairs")
    with launch([REAL, "ranker", path]).client() as client:
        yield client


@pytest.fixture(scope="module")
def reference():
    """(first text, second text, logit) of every row."""
    arrays = mx.load(str(FIXTURES / "bert-classifier-pairs" / "fixture.safetensors"))
    fixture = {name: np.array(array) for name, array in arrays.items()}
    rows = zip(*(fixture[name].tolist() for name in ("input_ids", "token_type_ids", "attention_mask")), strict=True)
    texts = [
        tuple(
            " ".join(f"w{each}" for each, kind, real in zip(*row, strict=True) if real and kind == wanted)
            for wanted in (0, 1)
        )
        for row in rows
    ]
    return [(*pair, logit) for pair, (logit,) in zip(texts, fixture["logits"].tolist(), strict=True)]


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.array(logits)))


def rerank(client, path="/v1/rerank", **body):
    return client.post(path, json={"query": "w5 w6", "documents": ["w7", "w8 w9", "w10"]} | body)


def results_of(response) -> list[dict]:
    assert response.status_code == 200, response.text
    return response.json()["results"]


def error_of(response) -> dict:
    assert response.status_code == 400, response.text
    return response.json()["error"]


def test_scores_are_the_reference_s(client, reference):
    for query, document, logit in reference:
        (result,) = results_of(rerank(client, query=query, documents=[document]))
        assert abs(result["relevance_score"] - sigmoid(logit)) <= 1e-4
        (result,) = results_of(rerank(client, query=query, documents=[document], raw_scores=True))
        assert abs(result["relevance_score"] - logit) <= 1e-4


def test_pairs_are_scored_in_their_order(client, reference):
    firsts, seconds, logits = zip(*reference, strict=True)
    response = client.post("/v1/score", json={"text_1": firsts, "text_2": seconds})
    assert response.status_code == 200, response.text
    data = response.json()["data"]
    assert [(entry["index"], entry["object"]) for entry in data] == [(index, "score") for index in range(3)]
    assert np.allclose([entry["score"] for entry in data], sigmoid(logits), atol=1e-4)
    same = client.post("/score", json={"queries": firsts[0], "documents": list(seconds)}).json()["data"]
    assert abs(same[0]["score"] - data[0]["score"]) <= 1e-6
    assert len(same) == 3


def test_the_best_document_comes_first_under_every_address(client):
    answers = [rerank(client, path) for path in ("/v1/rerank", "/rerank", "/v2/rerank", "/v1/v2/rerank", "/rerank/")]
    results = results_of(answers[0])
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert sorted(result["index"] for result in results) == [0, 1, 2]
    for answer in answers[1:]:
        assert results_of(answer) == results
    body = answers[0].json()
    assert body["model"] == "ranker"
    assert body["usage"] == {"prompt_tokens": 3 * 2 + 4, "total_tokens": 3 * 2 + 4}
    assert body["meta"] == {"billed_units": {"search_units": 1}}
    assert "document" not in results[0]


def test_as_many_as_asked_for_and_their_texts(client):
    everything = results_of(rerank(client))
    assert results_of(rerank(client, top_n=2)) == everything[:2]
    for top_n in (0, None, 99):
        assert results_of(rerank(client, top_n=top_n)) == everything
    best = results_of(rerank(client, documents=["w7", {"text": "w8 w9"}, {"text": "w10"}], return_documents=True))
    assert [result["document"]["text"] for result in best] == [
        ["w7", "w8 w9", "w10"][result["index"]] for result in everything
    ]


def test_the_short_answer_for_those_who_send_texts(client):
    long = results_of(rerank(client))
    short = client.post("/rerank", json={"query": "w5 w6", "texts": ["w7", "w8 w9", "w10"], "return_text": True})
    assert [(each["index"], each["score"]) for each in short.json()] == [
        (each["index"], each["relevance_score"]) for each in long
    ]
    assert short.json()[0]["text"] in ("w7", "w8 w9", "w10")


def test_long_documents_are_cut_where_that_is_asked_for(client):
    cut = rerank(client, documents=["w7 w8 " * 500], max_tokens_per_doc=2)
    assert cut.json()["usage"]["prompt_tokens"] == 4
    (expected,) = results_of(rerank(client, documents=["w7 w8"]))
    assert abs(results_of(cut)[0]["relevance_score"] - expected["relevance_score"]) <= 1e-6
    assert rerank(client, documents=["w7 " * 500], truncate=True).json()["usage"]["prompt_tokens"] == LIMIT
    assert rerank(client, documents=["w7 " * 9], truncate_prompt_tokens=5).json()["usage"]["prompt_tokens"] == 5


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"query": None}, "query", "missing_required_parameter"),
        ({"query": 5}, "query", "invalid_value"),
        ({"documents": None}, "documents", "invalid_value"),
        ({"documents": []}, "documents", "invalid_value"),
        ({"documents": "w7"}, "documents", "invalid_value"),
        ({"documents": ["w7", 5]}, "documents[1]", "invalid_value"),
        ({"documents": ["w7", {"title": "w8"}]}, "documents[1]", "invalid_value"),
        ({"documents": ["w7"] * 2049}, "documents", "invalid_value"),
        ({"texts": ["w7"]}, "documents", "invalid_value"),
        ({"documents": ["w7", "w7 " * LIMIT]}, "query", "context_length_exceeded"),
        ({"query": "w7 " * LIMIT, "truncate": True}, "query", "invalid_value"),
        ({"top_n": -1}, "top_n", "invalid_value"),
    ],
)
def test_bad_input_is_refused_by_name_and_the_server_goes_on(client, body, param, code):
    error = error_of(rerank(client, **body))
    assert (error["param"], error["code"]) == (param, code)
    assert len(results_of(rerank(client))) == 3


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "text_1"), ({"text_1": "w5"}, "text_1"), ({"text_1": ["w5", "w6"], "text_2": ["w7", "w8", "w9"]}, "text_1")],
)
def test_texts_that_make_no_pairs_are_refused(client, body, param):
    assert error_of(client.post("/v1/score", json=body))["param"] == param


def test_a_ranker_neither_embeds_nor_writes(client):
    for path, body in [("/v1/embeddings", {"input": "w5"}), ("/v1/completions", {"prompt": "w5"})]:
        error = error_of(client.post(path, json=body))
        assert error["param"] == "model"
        assert "/v1/rerank" in error["message"]


def test_a_classifier_of_several_labels_ranks_nothing(launch, tmp_path):
    with launch([REAL, "sorter", make_model(tmp_path, "bert-classifier-2")]).client() as client:
        error = error_of(rerank(client))
    assert error["param"] == "model"
    assert "2 scores" in error["message"]
