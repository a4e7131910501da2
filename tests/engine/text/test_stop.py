"""Stop strings: the same result however the text is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text.stop import StopMatcher, StopStrings

SMALL = st.text(alphabet="ab ", max_size=30)


def run(pieces: list[str], stops: list[str], *, include: bool = False) -> tuple[str, str | None]:
    matcher = StopMatcher(StopStrings(stops), include=include)
    text = "".join(matcher.push(piece) for piece in pieces) + matcher.finish()
    return text, matcher.matched


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one two three", ["two"], ("one ", "two")),
        ("one two three", [], ("one two three", None)),
        ("one", ["", "e"], ("on", "e")),
        ("aab", ["ab", "ab"], ("a", "ab")),
        ("abcd", ["bc", "abc"], ("", "abc")),
        ("abcd", ["abcd", "b"], ("a", "b")),
        ("ends with the be", ["beginning"], ("ends with the be", None)),
        ("\n\nx", ["\n\n"], ("", "\n\n")),
    ],
)
def test_text_is_cut_before_the_first_stop(text, stops, expected):
    assert run([text], stops) == expected
    assert run(list(text), stops) == expected


def test_the_stop_is_kept_when_asked_for():
    assert run(["one two three"], ["two"], include=True) == ("one two", "two")


def test_nothing_follows_a_match():
    matcher = StopMatcher(StopStrings(["x"]))
    assert [matcher.push("ax"), matcher.push("b"), matcher.finish()] == ["a", "", ""]


def test_only_a_possible_beginning_is_held_back():
    matcher = StopMatcher(StopStrings(["<end>"]))
    assert [matcher.push("a<"), matcher.push("en"), matcher.push("try>")] == ["a", "", "<entry>"]


@given(SMALL, st.lists(st.text(alphabet="ab ", max_size=4), max_size=5), st.booleans(), st.data())
def test_any_split_gives_the_result_of_the_whole(text, stops, include, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert run(pieces, stops, include=include) == run([text], stops, include=include)


@given(SMALL, st.lists(st.text(alphabet="ab ", min_size=1, max_size=4), min_size=1, max_size=5))
def test_the_match_that_ends_first_wins(text, stops):
    ends = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    shown, matched = run([text], stops)
    if not ends:
        assert (shown, matched) == (text, None)
    else:
        end, _, stop = min(ends)
        assert (shown, matched) == (text[: end - len(stop)], stop)


def test_hundreds_of_stops_over_a_long_text_are_quick():
    stops = [f"stop number {n}" for n in range(500)]
    matcher = StopMatcher(StopStrings(stops))
    assert len("".join(matcher.push("stop numbe ") for _ in range(20_000))) > 200_000
