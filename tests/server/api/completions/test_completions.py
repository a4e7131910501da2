"""Completions over a scripted worker: prompt forms, choices, stops, scores, usage."""

import json

import pytest

from server.api.completions.logprobs import TokenLists
from server.api.completions.reply import likeliest
from server.generation.continuation import LikelyToken, ScoredToken
from server.generation.generation import Choice
from server.parsing.piece import Piece


def post(client, **body):
    response = client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("hi", ["You said: hi"]),
        (["a", "b"], ["You said: a", "You said: b"]),
        ([104, 105], ["You said: hi"]),
        ([[97], [98, 99]], ["You said: a", "You said: bc"]),
        (["a", [98]], ["You said: a", "You said: b"]),
        ("", ["You said: "]),
        (["ä", "漢字"], ["You said: ä", "You said: 漢字"]),
    ],
)
def test_every_form_of_prompt_is_answered_in_order(client, prompt, texts):
    answer = post(client, prompt=prompt, max_tokens=50)
    assert [choice["text"] for choice in answer["choices"]] == texts
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(texts)))


def test_ids_are_used_as_given_and_text_begins_as_the_model_expects(client):
    # The reply costs as many tokens either way; a start token is added to text only.
    assert post(client, prompt=[104, 105])["usage"]["prompt_tokens"] == 2
    assert post(client, prompt="hi")["usage"]["prompt_tokens"] == 3
    assert post(client, prompt="hi", add_special_tokens=False)["usage"]["prompt_tokens"] == 2


def test_the_answer_has_every_key_of_the_api(client):
    answer = post(client, prompt="hi", model="an-alias", max_tokens=50)
    assert answer["id"].startswith("cmpl-")
    assert (answer["object"], answer["model"]) == ("text_completion", "an-alias")
    assert answer["created"] > 1_700_000_000
    assert answer["choices"] == [{"index": 0, "text": "You said: hi", "logprobs": None, "finish_reason": "stop"}]
    assert answer["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 13,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_choices_are_numbered_by_prompt_then_sample_and_usage_counts_prompts_once(client):
    answer = post(client, prompt=["a", "bc"], n=3, max_tokens=50)
    assert [choice["text"][-2:] for choice in answer["choices"]] == [" a"] * 3 + ["bc"] * 3
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3, 4, 5]
    assert answer["usage"]["prompt_tokens"] == 2 + 3
    assert answer["usage"]["completion_tokens"] == 3 * len("You said: a.") + 3 * len("You said: bc.")


@pytest.mark.parametrize("max_tokens", [None, 0, 1, 3])
def test_max_tokens_bounds_the_answer_and_defaults_to_sixteen(client, max_tokens):
    answer = post(client, prompt="a long enough prompt", max_tokens=max_tokens)
    wanted = 16 if max_tokens is None else max_tokens
    assert answer["choices"][0]["text"] == "You said: a long enough prompt"[:wanted]
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == wanted


def test_an_over_large_max_tokens_shrinks_to_the_context(fake, client):
    for max_tokens in (100_000, -1):
        body = fake.script(say_sampling=True) | {"max_tokens": max_tokens}
        answer = post(client, **body)
        assert json.loads(answer["choices"][0]["text"])["max_tokens"] == 4096 - answer["usage"]["prompt_tokens"]


def test_a_prompt_that_fills_the_context_is_refused_with_both_numbers(client):
    assert client.post("/v1/completions", json={"prompt": "x" * 4094}).status_code == 200
    error = client.post("/v1/completions", json={"prompt": "x" * 4095}).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    assert "4096" in error["message"]
    assert "prompt is too long" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("keys", "text", "finish_reason"),
    [
        ({"stop": "said"}, "You ", "stop"),
        ({"stop": ["zzz", "id: h"]}, "You sa", "stop"),
        ({"stop": "said", "include_stop_str_in_output": True}, "You said", "stop"),
        ({"stop": "You", "min_tokens": 5}, "You said: hi", "stop"),
        ({"stop": ["hi there"]}, "You said: hi", "stop"),
        ({"stop": ["", None]}, "You said: hi", "stop"),
        ({"stop": ["hi there"], "max_tokens": 11}, "You said: h", "length"),
        ({"stop": [f"no such {number}" for number in range(200)]}, "You said: hi", "stop"),
    ],
)
def test_stop_strings_end_the_text_and_never_leak(fake, client, stream, keys, text, finish_reason):
    body = {"prompt": "hi", "max_tokens": 50, "stream": stream} | keys
    response = client.post("/v1/completions", json=body)
    answers = fake.events(response) if stream else [response.json()]
    choices = [choice for answer in answers for choice in answer["choices"]]
    assert "".join(choice["text"] for choice in choices) == text
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == [finish_reason]


def test_a_stop_string_stops_the_worker(fake):
    fake_id = None
    with fake.client() as client:
        body = fake.script(say="stop here and go on " * 10, delay_seconds=0.01) | {"stop": "here"}
        fake_id = client.post("/v1/completions", json=body).json()["id"]
    assert f"{fake_id}-0" in fake.state()["cancelled"]


def test_every_sampling_field_reaches_the_engine_under_its_own_name(fake, client):
    given = {
        "temperature": 0.5,
        "top_k": 5,
        "top_p": 0.25,
        "min_p": 0.125,
        "repetition_penalty": 1.5,
        "presence_penalty": -1.5,
        "frequency_penalty": 0.75,
        "seed": 7,
        "logprobs": 3,
        "min_tokens": 2,
        "stop_token_ids": [9],
        "ignore_eos": False,
    }
    text = post(client, **fake.script(say_sampling=True) | given | {"logit_bias": {"65": -1, "66": 2.5}})
    sampling = json.loads(text["choices"][0]["text"])
    tokenizers_own_end = 256
    expected = given | {"logit_bias": [[65, -1.0], [66, 2.5]], "max_tokens": 2000}
    expected["stop_token_ids"] = [9, tokenizers_own_end]
    assert {name: sampling[name] for name in expected} == expected


def test_neutral_values_switch_things_off(fake, client):
    text = post(client, **fake.script(say_sampling=True) | {"top_k": -1, "top_p": 0})["choices"][0]["text"]
    sampling = json.loads(text)
    assert (sampling["top_k"], sampling["temperature"], sampling["top_p"]) == (0, 0.0, 1.0)


def test_choices_have_different_seeds_that_repeat(fake, client):
    body = fake.script(say_sampling=True) | {"n": 3, "seed": 42}
    seeds = [[json.loads(choice["text"])["seed"] for choice in post(client, **body)["choices"]] for _ in range(2)]
    assert seeds[0] == seeds[1]
    assert seeds[0][0] == 42
    assert len(set(seeds[0])) == 3


def logprobs_of(answers, num_choices):
    """Text and the four lists of every choice, of one answer or of a stream's chunks."""
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    texts, lists = [""] * num_choices, [{name: [] for name in names} for _ in range(num_choices)]
    for choice in (choice for answer in answers for choice in answer["choices"]):
        texts[choice["index"]] += choice["text"]
        for name in names:
            lists[choice["index"]][name] += (choice["logprobs"] or {name: []})[name]
    return texts, lists


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("max_tokens", [0, 1, 4])
def test_echo_with_scores_scores_the_prompt(fake, client, stream, max_tokens):
    body = {"prompt": ["hi", [104, 111, 33]], "echo": True, "logprobs": 1, "max_tokens": max_tokens, "n": 2}
    response = client.post("/v1/completions", json=body | {"stream": stream})
    assert response.status_code == 200, response.text
    texts, lists = logprobs_of(fake.events(response) if stream else [response.json()], 4)
    said = "You "[:max_tokens]
    assert texts == ["hi" + said] * 2 + ["ho!" + said] * 2
    assert lists[0]["tokens"] == ["<s>", "h", "i", *said]
    assert lists[0]["text_offset"] == [0, 0, 1, *range(2, 2 + max_tokens)]
    assert lists[2]["tokens"] == ["h", "o", "!", *said]
    assert lists[2]["text_offset"] == list(range(3 + max_tokens))
    for each, length in ((lists[0], 3), (lists[2], 3)):
        assert {len(values) for values in each.values()} == {length + max_tokens}
        assert (each["token_logprobs"][0], each["top_logprobs"][0]) == (None, None)
        for token, value, likely in zip(*(each[name][1:] for name in list(each)[:3]), strict=True):
            assert likely[token] == value == max(likely.values())


def test_a_harness_s_request_is_scored_with_one_token_more_even_if_that_ends_the_text(client):
    script = list(json.dumps({"say": ""}).encode())
    answer = post(client, prompt=[script, script], temperature=0, max_tokens=1, logprobs=1, seed=1234, echo=True)
    for choice in answer["choices"]:
        logprobs = choice["logprobs"]
        assert len(logprobs["token_logprobs"]) == len(logprobs["top_logprobs"]) == len(script) + 1
        assert logprobs["tokens"][-1] == "</s>"
        assert all(logprobs["top_logprobs"][1:])


def test_a_prompt_as_long_as_the_context_can_be_scored(client):
    body = {"prompt": [97] * 4096, "echo": True, "logprobs": 0, "max_tokens": 0}
    assert len(post(client, **body)["choices"][0]["logprobs"]["tokens"]) == 4096
    assert client.post("/v1/completions", json=body | {"max_tokens": 1}).status_code == 400


def test_the_best_of_several_tries_are_answered():
    def choice(text: str, *logprobs: float) -> Choice:
        tokens = [ScoredToken(LikelyToken("t", b"t", value, 1), (), 0, is_end=False) for value in logprobs]
        return Choice([Piece("content", text)], tokens)

    tries = [choice("a", -1, -1), choice("b", -0.5), choice("c", -3, -0.1), choice("d")]
    assert [each.text for each in likeliest(tries[:3], 2)] == ["a", "b"]
    assert [each.text for each in likeliest(tries[:3], 1)] == ["b"]


def test_tries_cost_tokens_and_show_no_scores(client):
    answer = post(client, prompt=["a", "bc"], n=1, best_of=3, max_tokens=4)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert {choice["logprobs"] for choice in answer["choices"]} == {None}
    assert answer["usage"]["completion_tokens"] == 2 * 3 * 4


def test_a_suffix_is_filled_in_with_the_model_s_own_tokens(start_fake):
    markers = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>"]
    server = start_fake(load={"markers": markers})
    with server.client() as client:
        answer = post(client, prompt="a<|fim_middle|>", suffix="z", max_tokens=50, skip_special_tokens=False)
        sampling = json.loads(
            post(client, prompt='{"say_sampling": ', suffix="true}", max_tokens=2000)["choices"][0]["text"]
        )
    # The scripted worker says back the bytes of its prompt, without the control tokens.
    assert answer["choices"][0]["text"] == "You said: a<|fim_middle|>z"
    assert answer["usage"]["prompt_tokens"] == 1 + (1 + len("a<|fim_middle|>")) + (1 + len("z")) + 1
    assert 258 + markers.index("<|file_sep|>") in sampling["stop_token_ids"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("max_tokens", [0, 4])
def test_echo_puts_the_prompt_first(fake, client, stream, max_tokens):
    body = {"prompt": ["hi", [104, 111]], "echo": True, "max_tokens": max_tokens, "stream": stream, "n": 2}
    response = client.post("/v1/completions", json=body)
    answers = fake.events(response) if stream else [response.json()]
    texts = ["", "", "", ""]
    for answer in answers:
        for choice in answer["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == [prompt + "You "[:max_tokens] for prompt in ("hi", "hi", "ho", "ho")]


def test_scores_come_as_four_lists_of_equal_length_with_the_end_token(client):
    answer = post(client, prompt="hi", max_tokens=50, logprobs=3)
    logprobs = answer["choices"][0]["logprobs"]
    assert len({len(values) for values in logprobs.values()}) == 1
    assert "".join(logprobs["tokens"][:-1]) == "You said: hi"
    assert logprobs["tokens"][-1] == "</s>"
    assert logprobs["text_offset"] == [*range(12), 12]
    assert set(logprobs["token_logprobs"]) == {-0.5}
    assert logprobs["top_logprobs"][0] == {"Y": -0.5, "x": -1.5, "y": -9999.0}
    for token, value, likely in zip(*list(logprobs.values())[:3], strict=True):
        assert likely[token] == value == max(likely.values())


def test_of_two_tokens_with_the_same_text_the_likelier_score_is_kept():
    def spelled_alike(logprob: float) -> LikelyToken:
        return LikelyToken("same", b"same", logprob, 1)

    for likely in ((-0.1, -3.0), (-3.0, -0.1)):
        token = ScoredToken(spelled_alike(-0.1), tuple(map(spelled_alike, likely)), offset=0, is_end=False)
        assert TokenLists(2, by_id=False).of([token])["top_logprobs"] == [{"same": -0.1}]


@pytest.mark.parametrize(("logprobs", "likely"), [(0, {"Y": -0.5}), (True, {"Y": -0.5}), (False, None)])
def test_scores_of_the_chosen_token_alone(client, logprobs, likely):
    found = post(client, prompt="hi", max_tokens=1, logprobs=logprobs)["choices"][0]["logprobs"]
    assert found is None if likely is None else found["top_logprobs"] == [likely]


def test_pieces_of_a_character_keep_lists_aligned_and_text_whole(fake, client):
    body = {"prompt": "漢", "max_tokens": 50, "logprobs": 1}
    whole = post(client, **body)["choices"][0]
    assert whole["text"] == "You said: 漢"
    assert whole["logprobs"]["tokens"][10:13] == ["bytes:\\xe6", "bytes:\\xbc", "bytes:\\xa2"]
    assert whole["logprobs"]["text_offset"][10:13] == [10, 10, 10]
    chunks = fake.events(client.post("/v1/completions", json=body | {"stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["text"]
    for name, values in whole["logprobs"].items():
        streamed = [chunk["choices"][0]["logprobs"] for chunk in chunks]
        assert [value for logprobs in streamed if logprobs for value in logprobs[name]] == values


def test_scores_of_text_behind_a_stop_string_are_left_out(client):
    choice = post(client, prompt="hi", stop=" said", max_tokens=50, logprobs=1)["choices"][0]
    assert choice["text"] == "".join(choice["logprobs"]["tokens"]) == "You"


def test_a_folded_stream_is_the_whole_answer(fake, client):
    body = {"prompt": ["eins", "zwei"], "n": 2, "max_tokens": 40, "stop": ["ei n"], "seed": 1}
    whole = post(client, **body)
    chunks = fake.events(client.post("/v1/completions", json=body | {"stream": True}))
    texts = dict.fromkeys(range(4), "")
    for chunk in chunks:
        assert "usage" not in chunk
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert list(texts.values()) == [choice["text"] for choice in whole["choices"]]


def test_a_failing_prompt_fails_the_whole_request(fake, client):
    body = {"prompt": ["fine", json.dumps({"say": "x", "fail_after": 0})]}
    response = client.post("/v1/completions", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")


BY_ID = {"return_token_ids": True, "return_tokens_as_token_ids": True}


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_told_as_ids_where_that_is_wanted(fake, client, stream):
    body = {"prompt": ["hi", [104]], "max_tokens": 50, "logprobs": 1, "echo": True, "stream": stream} | BY_ID
    response = client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    answers = fake.events(response) if stream else [response.json()]
    choices = [choice for answer in answers for choice in answer["choices"] if choice["index"] == 0]
    assert [choice["prompt_token_ids"] for choice in choices if "prompt_token_ids" in choice] == [[257, *b"hi"]]
    assert [each for choice in choices for each in choice["token_ids"]] == [*b"You said: hi", 256]
    _, lists = logprobs_of(answers, 2)
    assert lists[0]["tokens"] == [f"token_id:{each}" for each in (257, *b"hiYou said: hi", 256)]
    assert all(name.startswith("token_id:") for likely in lists[0]["top_logprobs"][1:] for name in likely)


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_are_scored_without_an_echo_too(fake, client, stream):
    body = {"prompt": "hi", "max_tokens": 3, "prompt_logprobs": 2, "stream": stream}
    response = client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    answers = fake.events(response) if stream else [response.json()]
    choices = [choice for answer in answers for choice in answer["choices"]]
    assert "".join(choice["text"] for choice in choices) == "You"
    assert [choice["logprobs"] for choice in choices if choice["logprobs"]] == []
    (scores,) = [choice["prompt_logprobs"] for choice in choices if "prompt_logprobs" in choice]
    assert scores[0] is None
    assert [scores[1][str(ord(each))] for each in "hx"] == [
        {"logprob": -0.5, "rank": 1, "decoded_token": "h"},
        {"logprob": -1.5, "rank": 2, "decoded_token": "x"},
    ]
    assert len(scores) == 3


def test_echo_and_prompt_logprobs_each_show_as_many_rivals_as_they_ask_for(client):
    body = {"prompt": "hi", "max_tokens": 0, "echo": True, "logprobs": 1, "prompt_logprobs": 3}
    choice = post(client, **body)["choices"][0]
    assert [len(likely) for likely in choice["logprobs"]["top_logprobs"][1:]] == [1, 1]
    assert [len(likely) for likely in choice["prompt_logprobs"][1:]] == [3, 3]


def test_a_prompt_is_cut_to_its_last_tokens_on_demand(client):
    for prompt in ("abcdef", list(b"abcdef")):
        choice = post(client, prompt=prompt, truncate_prompt_tokens=2, echo=True, max_tokens=50)["choices"][0]
        assert choice["text"] == "efYou said: ef"
    long = post(client, prompt="x" * 9000, truncate_prompt_tokens=-1, max_tokens=10)
    assert long["usage"]["prompt_tokens"] == 4096 - 10
    assert client.post("/v1/completions", json={"prompt": "hi", "truncate_prompt_tokens": 0}).status_code == 400


def test_words_and_tokens_that_are_not_wanted_reach_the_engine_as_ids(fake, client):
    body = fake.script(say_sampling=True) | {"bad_words": ["no", " no"], "allowed_token_ids": [65, 256]}
    sampling = json.loads(post(client, **body)["choices"][0]["text"])
    assert sampling["bad_sequences"] == [[*b"no"], [*b" no"]]
    assert sampling["allowed_token_ids"] == [65, 256]
    for wrong in ({"bad_words": [""]}, {"allowed_token_ids": []}, {"allowed_token_ids": [-1]}):
        (name,) = wrong
        assert client.post("/v1/completions", json={"prompt": "x"} | wrong).json()["error"]["param"].startswith(name)
