"""Grammars in the engine, on tiny random models whose tokens are bytes: whatever else happens, the text follows."""

import json
import re
import shutil
from pathlib import Path

import pytest

from engine import Engine
from engine.engine import EngineSettings
from engine.errors import GrammarInvalid, ParameterInvalid
from engine.requests import GenerationRequest
from engine.sampling.params import Grammar, SamplingParams

FIXTURES = Path(__file__).parents[1] / "engine" / "architectures" / "fixtures"
PATTERN = "([A-Z]{2,5}: PRICE IN EURO [0-9]{1,3}; ){1,9}END"
PRICES = Grammar(f"start: /{PATTERN}/")
PROMPT = tuple(range(40, 60))


@pytest.fixture(scope="module")
def byte_model(tmp_path_factory):
    """A model of tests/engine/architectures/fixtures whose token b + 3 is the byte b, as far as its vocabulary goes."""

    def make(name: str, longest: int | None = None) -> Path:
        path = tmp_path_factory.mktemp("models") / name
        shutil.copytree(FIXTURES / name, path)
        (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
        config = json.loads((path / "config.json").read_text())
        longer = {} if longest is None else {"max_position_embeddings": longest}
        (path / "config.json").write_text(json.dumps(config | longer))
        return path

    return make


@pytest.fixture(scope="module")
def llama(byte_model):
    return byte_model("llama", 2048)


@pytest.fixture(scope="module")
def engine(llama):
    return Engine(llama)


def request(name: str, grammar: Grammar | None = PRICES, prompt=PROMPT, **given) -> GenerationRequest:
    params = {"max_tokens": 400, "temperature": 1.0, "seed": 5, "grammar": grammar} | given
    return GenerationRequest(name, tuple(prompt), SamplingParams(**params))


def run(engine: Engine, *requests: GenerationRequest) -> dict[str, list]:
    """All outputs by request."""
    found: dict[str, list] = {}
    for each in requests:
        engine.submit(each)
    while engine.has_work:
        for output in engine.step():
            assert output.error is None, output.error
            found.setdefault(output.request_id, []).append(output)
    return found


def ids(outputs: list) -> list[int]:
    return [output.token.token_id for output in outputs]


def text(outputs: list) -> str:
    """Without the end token, which a grammar's answer has when it was not cut."""
    assert outputs[-1].finish_reason == "stop"
    return bytes(token_id - 3 for token_id in ids(outputs)[:-1]).decode()


def test_a_text_follows_its_grammar_and_ends_with_it(engine):
    found = run(engine, *(request(f"{seed}", seed=seed) for seed in range(8)))
    texts = [text(each) for each in found.values()]
    assert all(re.fullmatch(PATTERN, each) for each in texts)
    assert len(set(texts)) == 8


def test_what_a_grammar_forces_takes_no_steps_of_its_own(engine):
    engine.submit(request("a"))
    num_steps = num_tokens = 0
    while engine.has_work:
        num_tokens += len(engine.step())
        num_steps += 1
    assert num_steps < num_tokens / 2


def test_neighbours_change_nothing(engine):
    alone = ids(run(engine, request("a"))["a"])
    others = [request("b", None, max_tokens=50), request("c", Grammar("start: /[0-9]{50}/")), request("d", seed=6)]
    together = run(engine, others[0], request("a"), *others[1:])
    assert ids(together["a"]) == alone
    assert ids(together["b"]) == ids(run(engine, request("b", None, max_tokens=50))["b"])


@pytest.mark.parametrize("params", [{}, {"temperature": 0.0}, {"top_k": 4, "top_p": 0.9}, {"repetition_penalty": 1.2}])
def test_scores_do_not_change_the_text(engine, params):
    plain = run(engine, request("a", **params))["a"]
    scored = run(engine, request("a", logprobs=1, **params))["a"]
    assert ids(scored) == ids(plain)
    assert all(output.token.logprob is not None for output in scored)


def test_without_kernels_the_text_follows_too(llama):
    engine = Engine(llama, EngineSettings(kernels="off"))
    assert re.fullmatch(PATTERN, text(run(engine, request("a", top_p=0.9))["a"]))


def test_a_text_that_is_cut_is_the_beginning_of_one_that_is_not(engine):
    whole = ids(run(engine, request("a"))["a"])
    for max_tokens in (1, 2, 9, 20, len(whole) - 1):
        cut = run(engine, request("a", max_tokens=max_tokens))["a"]
        assert ids(cut) == whole[:max_tokens]
        assert cut[-1].finish_reason == "length"
    assert run(engine, request("a", max_tokens=len(whole)))["a"][-1].finish_reason == "stop"


def test_rows_that_are_preempted_give_what_they_give_with_room(llama):
    long = Grammar(f"start: /{PATTERN.replace('{1,9}', '{20,30}')}/")
    requests = [request(str(seed), long, seed=seed, prompt=PROMPT * 8, max_tokens=900) for seed in range(8)]
    roomy = {name: ids(each) for name, each in run(Engine(llama, EngineSettings(prefix_bytes=0)), *requests).items()}
    engine = Engine(llama, EngineSettings(prefix_bytes=0))
    token_bytes = engine.stats.kv_limit_bytes and engine._kv_budget.needed_bytes(256) // 256
    engine = Engine(llama, EngineSettings(prefix_bytes=0, kv_bytes=2048 * token_bytes))
    assert {name: ids(each) for name, each in run(engine, *requests).items()} == roomy
    assert engine.stats.num_preemptions > 0


def test_stored_prefixes_change_nothing(llama):
    longer = request("a", prompt=PROMPT * 20)
    engine = Engine(llama)
    first, again = run(engine, longer)["a"], run(engine, longer)["a"]
    assert again[0].cached_tokens > 0
    assert ids(again) == ids(first)
    follow_up = (*longer.prompt_ids, *ids(first)[:-1])
    with_prefix = run(engine, request("b", prompt=follow_up))["b"]
    assert with_prefix[0].cached_tokens > len(longer.prompt_ids)
    assert ids(with_prefix) == ids(
        run(Engine(llama, EngineSettings(prefix_bytes=0)), request("b", prompt=follow_up))["b"]
    )


def test_what_is_banned_comes_when_the_grammar_allows_nothing_else(engine):
    yes = Grammar('start: "Y" ("A" | "B")')
    banned = tuple((ord(letter) + 3, -float("inf")) for letter in "YA")
    for params in ({"logit_bias": banned}, {"min_tokens": 50}, {"allowed_token_ids": (ord("B") + 3,)}):
        found = text(run(engine, request("a", yes, **params))["a"])
        assert found in (("YB",) if "min_tokens" not in params else ("YA", "YB"))


def test_a_grammar_ends_an_answer_that_ignores_end_tokens(engine):
    found = run(engine, request("a", Grammar('start: "OK"'), ignore_eos=True))["a"]
    assert text(found) == "OK"


def test_an_encoder_decoder_model_follows_a_grammar(byte_model):
    engine = Engine(byte_model("t5"))
    pattern = "([0-9]{2,5}: 000,000 [1-3]; ){1,9}"
    found = run(engine, *(request(f"{seed}", Grammar(f"start: /{pattern}/"), seed=seed) for seed in range(3)))
    assert all(re.fullmatch(pattern, text(each)) for each in found.values())


def test_beams_and_a_grammar_exclude_each_other(byte_model):
    engine = Engine(byte_model("t5"))
    with pytest.raises(ParameterInvalid, match="num_beams"):
        engine.submit(request("a", Grammar("start: /[0-9]/"), num_beams=2, temperature=0.0))
    assert not engine.has_work


@pytest.mark.parametrize(
    ("lark", "why"),
    [
        ("start: /(a/", "unclosed group"),
        ("start: missing", "unknown name"),
        ('start: "{"', "satisfy"),
        ('start: %json {"type": "strin"}', "Invalid type"),
        ('start: %json {"$ref": "http://localhost/schema"}', "not"),
        ('start: %json {"$ref": "#"}', "satisfy"),
        ("start: " + "(" * 3000 + '"A"' + ")" * 3000, "nested"),
    ],
)
def test_a_grammar_that_cannot_be_followed_says_why(engine, lark, why):
    with pytest.raises(GrammarInvalid, match=why):
        engine.submit(request("a", Grammar(lark, "response_format")))
    assert not engine.has_work


def test_a_grammar_that_leads_nowhere_fails_its_row_alone(engine):
    """Nothing of this vocabulary is a small letter, which is found out when one is due."""
    engine.submit(request("stuck", Grammar("start: /[A-Z]{3}[a-z]/")))
    engine.submit(request("other"))
    errors, other = [], []
    while engine.has_work:
        for output in engine.step():
            (errors if output.request_id == "stuck" and output.error else other).append(output)
    assert len(errors) == 1
    assert "cannot go on" in errors[0].error
    assert re.fullmatch(PATTERN, text([output for output in other if output.request_id == "other"]))


AMBIGUOUS = Grammar("start: s\ns: s s s | s s | /[A-Z ]/")


def test_an_ambiguous_grammar_fails_its_row_alone_and_by_name(engine):
    """Finding what may come next takes ever longer with it: that is the fault of the grammar."""
    engine.submit(request("ambiguous", AMBIGUOUS, max_tokens=1500, logit_bias=((1, -100.0), (2, -100.0))))
    engine.submit(request("plain", None, ignore_eos=True, max_tokens=200))
    engine.submit(request("prices"))
    last = {}
    while engine.has_work:
        last |= {output.request_id: output for output in engine.step()}
    assert last["ambiguous"].error_kind == "GrammarInvalid"
    assert "The answer cannot go on as its grammar wants" in last["ambiguous"].error
    assert (last["plain"].finish_reason, last["prices"].finish_reason) == ("length", "stop")
