"""/v1/embeddings over the real worker: the catalogue's model through the official client, and a tiny one gone bad."""

import base64
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import mlx.core as mx
import numpy as np
import openai
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

REAL = Path(__file__).parents[2] / "real_serve.py"
FIXTURES = Path(__file__).parents[3] / "engine" / "architectures" / "fixtures"
SENTENCES = FIXTURES / "all-minilm-l6-v2"
OLD_CLIENT = Path(sys.prefix) / "openai-1"
LIMIT, SPOILT = 64, 9
PROMPTS = {"query": "w11 w12 ", "passage": "w13 "}


def unit(vectors) -> np.ndarray:
    vectors = np.array(vectors, np.float64)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def server(launch, embedding_model):
    return launch([REAL, "all-minilm-l6-v2", embedding_model])


@pytest.fixture(scope="module")
def sdk(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def tiny(launch, tmp_path_factory):
    """A Matryoshka BERT that spells token 7 as w7, begins texts with w1 and ends them with w2, and fails on w9."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    shutil.copytree(FIXTURES / "bert", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"matryoshka_dimensions": [8, 16]}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": PROMPTS}))
    tensors = dict(mx.load(str(folder / "model.safetensors")))
    tensors["embeddings.word_embeddings.weight"][SPOILT] = float("nan")
    mx.eval(tensors)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(96)}, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="w1 $A w2", special_tokens=[("w1", 1), ("w2", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return launch([REAL, "tiny", folder])


@pytest.fixture
def client(tiny):
    with tiny.client() as client:
        yield client


def post(client: httpx.Client, **body) -> httpx.Response:
    return client.post("/v1/embeddings", json=body)


def vectors_of(response: httpx.Response) -> list[list[float]]:
    assert response.status_code == 200, response.text
    data = response.json()["data"]
    assert [entry["index"] for entry in data] == list(range(len(data)))
    return [entry["embedding"] for entry in data]


def error_of(response: httpx.Response, status: int = 400) -> dict:
    assert response.status_code == status, response.text
    return response.json()["error"]


def test_twenty_texts_are_the_reference_s(sdk):
    texts = json.loads((SENTENCES / "texts.json").read_text())
    expected = unit(np.array(mx.load(str(SENTENCES / "fixture.safetensors"))["embeddings"]))
    reply = sdk.embeddings.create(model="all-minilm-l6-v2", input=texts)
    found = [entry.embedding for entry in reply.data]
    assert (unit(found) * expected).sum(axis=1).min() >= 0.9999
    assert [entry.index for entry in reply.data] == list(range(20))
    assert reply.usage.prompt_tokens == reply.usage.total_tokens > 20 * 3
    alone = sdk.embeddings.create(model="", input=texts[-1]).data[0].embedding
    assert (unit(alone) * unit(found[-1])).sum() >= 0.9999999


def test_the_client_gets_the_same_numbers_as_floats_and_as_base64(sdk, server):
    given = {"model": "all-minilm-l6-v2", "input": ["one text", "another, a little longer"]}
    floats = [entry.embedding for entry in sdk.embeddings.create(**given, encoding_format="float").data]
    # Without a format this client asks for base64 and unpacks it.
    assert [entry.embedding for entry in sdk.embeddings.create(**given).data] == floats
    with server.client() as client:
        packed = vectors_of(post(client, **given, encoding_format="base64"))
        assert [np.frombuffer(base64.b64decode(each), "<f4").tolist() for each in packed] == floats
        assert vectors_of(post(client, **given)) == floats
    assert all(math.isclose(math.hypot(*vector), 1, abs_tol=1e-6) for vector in floats)


def test_a_1_x_release_of_the_client_gets_the_same_numbers(sdk, server):
    if not OLD_CLIENT.is_dir():
        pytest.skip("scripts/test installs the 1.x release into .venv/openai-1")
    program = """
import json, sys, openai
create = openai.OpenAI(base_url=sys.argv[1], api_key="unused", max_retries=0).embeddings.create
given = {"model": "", "input": ["one text", "another"]}
both = [create(**given, **format).data for format in ({}, {"encoding_format": "float"})]
print(json.dumps([openai.__version__, *([entry.embedding for entry in data] for data in both)]))
"""
    command = [sys.executable, "-c", program, f"{server.url}/v1"]
    ended = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(OLD_CLIENT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    version, packed, floats = json.loads(ended.stdout)
    assert version.startswith("1.")
    own = sdk.embeddings.create(model="", input=["one text", "another"]).data
    assert packed == floats == [entry.embedding for entry in own]


def test_ids_give_what_their_text_gives(sdk):
    text = sdk.embeddings.create(model="", input="hello").data[0].embedding
    for ids in ([101, 7592, 102], [[101, 7592, 102]]):
        assert sdk.embeddings.create(model="", input=ids).data[0].embedding == text


def test_an_embedding_model_that_is_asked_to_write_names_the_route_to_use(sdk):
    for ask in (
        lambda: sdk.chat.completions.create(model="", messages=[{"role": "user", "content": "hi"}]),
        lambda: sdk.completions.create(model="", prompt="hi"),
    ):
        with pytest.raises(openai.BadRequestError, match="/v1/embeddings") as refused:
            ask()
        assert refused.value.param == "model"


def test_the_start_says_how_to_ask_an_embedding_model(server):
    server.wait_for(lambda: "is loaded" in "".join(server.lines))
    assert "/v1/embeddings" in "".join(server.lines)


def test_models_of_other_kinds_make_no_embeddings(client, fake):
    with fake.client() as writing:
        error = error_of(post(writing, model="org/fake", input="hi"))
        assert error["param"] == "model"
        assert "/v1/chat/completions" in error["message"]
        for path, body in (
            ("/v1/rerank", {"query": "a", "documents": ["b"]}),
            ("/score", {"text_1": "a", "text_2": "b"}),
        ):
            assert error_of(writing.post(path, json=body))["param"] == "model"
            assert error_of(client.post(path, json=body))["param"] == "model"


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "input", "missing_required_parameter"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": [[]]}, "input", "invalid_value"),
        ({"input": ["w5"] * 2049}, "input", "invalid_value"),
        ({"input": {"text": "w5"}}, "input", "invalid_value"),
        ({"input": ["w5", [5]], "encoding_format": "int8"}, "encoding_format", "invalid_value"),
        ({"input": [96]}, "input", "invalid_value"),
        ({"input": [[5], [5, 2**31 - 1]]}, "input", "invalid_value"),
        ({"input": [-1]}, "input", "invalid_value"),
        ({"input": [5.5]}, "input", "invalid_value"),
        ({"input": "w5 " * (LIMIT - 1)}, "input", "context_length_exceeded"),
        ({"input": ["w5", [5] * (LIMIT + 1)]}, "input", "context_length_exceeded"),
        ({"input": "w5", "dimensions": 12}, "dimensions", "unsupported_parameter"),
        ({"input": "w5", "dimensions": 33}, "dimensions", "unsupported_parameter"),
        ({"input": "w5", "dimensions": 0}, "dimensions", "invalid_value"),
        ({"input": "w5", "prompt_name": "poem"}, "prompt_name", "invalid_value"),
        ({"input": "w5", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "invalid_value"),
        ({"input": "w5", "truncate_prompt_tokens": 1}, "truncate_prompt_tokens", "invalid_value"),
        ({"input": "w5", "model": "gone"}, "model", "model_not_found"),
    ],
)
def test_bad_input_is_refused_by_name_and_the_server_goes_on(client, body, param, code):
    error = error_of(post(client, **body), 404 if code == "model_not_found" else 400)
    assert (error["param"], error["code"]) == (param, code)
    assert len(vectors_of(post(client, input="w5"))) == 1


def test_what_a_model_that_is_not_matryoshka_cannot_do_is_said(sdk):
    with pytest.raises(openai.BadRequestError, match="384") as refused:
        sdk.embeddings.create(model="", input="hi", dimensions=128)
    assert refused.value.param == "dimensions"
    assert len(sdk.embeddings.create(model="", input="hi", dimensions=384).data[0].embedding) == 384


def test_a_matryoshka_vector_is_cut_and_brought_to_length_one_again(client):
    (whole,) = vectors_of(post(client, input="w5 w6"))
    (cut,) = vectors_of(post(client, input="w5 w6", dimensions=8))
    assert np.allclose(cut, unit(whole[:8]), atol=1e-6)


def test_the_limit_itself_fits_an_empty_text_too_and_two_thousand_inputs_keep_their_order(client):
    texts = [f"w{5 + index % 3} " * (index % (LIMIT - 1)) for index in range(2048)]
    vectors = vectors_of(post(client, input=texts, user="me", unknown_field={"a": 1}))
    assert len(vectors) == 2048
    assert np.allclose(vectors[LIMIT - 2], vectors_of(post(client, input=texts[LIMIT - 2]))[0], atol=1e-6)
    assert np.allclose(vectors[0], vectors_of(post(client, input=""))[0], atol=1e-6)


def test_prompts_are_put_before_texts_and_not_before_ids(client):
    (bare, query, passage) = vectors_of(post(client, input=["w7", f"{PROMPTS['query']}w7", f"{PROMPTS['passage']}w7"]))
    for given, expected in [
        ({}, bare),
        ({"input_type": "query"}, query),
        ({"input_type": "search_query"}, query),
        ({"input_type": "document"}, passage),
        ({"input_type": "clustering"}, bare),
        ({"prompt_name": "passage"}, passage),
    ]:
        assert np.allclose(vectors_of(post(client, input="w7", **given)), [expected], atol=1e-6), given
    assert np.allclose(vectors_of(post(client, input=[1, 7, 2], input_type="query")), [bare], atol=1e-6)


def test_a_text_that_may_be_cut_keeps_its_special_tokens(client):
    cut = post(client, input="w5 w6 w7 w8", truncate_prompt_tokens=4)
    assert cut.json()["usage"]["prompt_tokens"] == 4
    assert np.allclose(vectors_of(cut), vectors_of(post(client, input=[1, 5, 6, 2])), atol=1e-6)
    whole = post(client, input="w5 " * 1000, truncate_prompt_tokens=-1)
    assert whole.json()["usage"]["prompt_tokens"] == LIMIT
    assert vectors_of(post(client, input="w5 " * 1000, truncate=True)) == vectors_of(whole)


def test_a_vector_that_is_no_number_is_never_sent(client):
    response = post(client, input=["w5", f"w{SPOILT}", "w6"])
    error = error_of(response, 500)
    assert "input[1]" in error["message"]
    assert response.headers["x-should-retry"] == "false"
    assert "nan" not in response.text.lower()
    assert len(vectors_of(post(client, input=["w5", "w6"]))) == 2


def test_many_at_once_get_what_each_gets_alone(client):
    texts = [f"w{5 + number % 60} " * (1 + number % 9) for number in range(64)]
    texts = [text for text in texts if f"w{SPOILT} " not in text]
    alone = [vectors_of(post(client, input=text))[0] for text in texts]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda text: vectors_of(post(client, input=text))[0], texts))
    assert np.allclose(together, alone, atol=1e-6)


def test_the_server_answers_others_while_a_long_list_is_encoded(sdk, server):
    words = "wasps about the windfalls " * 40
    busy = threading.Thread(target=lambda: sdk.embeddings.create(model="", input=[words] * 16))
    busy.start()
    waits = []
    with server.client() as client:
        while busy.is_alive():
            started = time.monotonic()
            assert client.get("/health").status_code == 200
            waits.append(time.monotonic() - started)
            time.sleep(0.02)
        vectors_of(post(client, input="a short one"))
    busy.join()
    assert len(waits) > 3
    assert sorted(waits)[len(waits) // 2] < 0.1


def test_a_client_that_leaves_stops_the_reading(server):
    words = "wasps about the windfalls " * 40
    with server.client(timeout=0.7) as client, pytest.raises(httpx.ReadTimeout):
        post(client, input=[words] * 1500)
    server.wait_for(lambda: "/embeddings 499" in server.log)
    with server.client() as client:
        started = time.monotonic()
        vectors_of(post(client, input="next"))
        assert time.monotonic() - started < 5
