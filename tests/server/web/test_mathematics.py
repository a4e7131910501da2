"""Mathematics in an answer is set when it is whole, and prices stay prices."""

import pytest


def test_mathematics_that_is_not_closed_yet_is_shown_as_it_is_written(answers):
    """A formula in the making is no error, and is not set before it is whole."""
    for text in (r"$$", "$$\n", "$$\nx + \\fr", "\\[\nx + \\frac{1}", "so:\n$$\nx + y\n"):
        assert "katex" not in answers.shown(text), text
        assert "math display source" in answers.shown(text), text
    assert answers.shown("$$\nx + y\n$$", "root.querySelectorAll('.katex').length") == 1
    for text in (r"the $x", r"the \(x + \frac", r"the \(", "the $"):
        assert "katex" not in answers.shown(text), text


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        (r"Inline $e^{i\pi} = -1$ and \(a_1\), the $n$th.", [r"e^{i\pi} = -1", "a_1", "n"]),
        ("$$\nx = 1\n$$", ["\nx = 1\n"]),
        ("text\n\\[\n- x \\\\[2pt] y\n\\]\nmore", ["\n- x \\\\[2pt] y\n"]),
        ("$$x$$ and $$y$$ in a line", ["x", "y"]),
        ("- item\n  \\[ x \\]\n- $y$", [" x ", "y"]),
        ("> $$\n> x\n> $$", ["\nx\n"]),
        ("| $a$ | b |\n|--|--|\n| c | \\(d\\) |", ["a", "d"]),
        ("**bold $a*b*c$**", ["a*b*c"]),
        ("It costs $5, not $10; US$3 and US$4; `$HOME` and `$PATH`; $x and `a$b`; \\$a\\$", []),
        ("$5 for a and 6$7", []),
        ("```\n$x$\n```\n\n`\\(y\\)`", []),
    ],
)
def test_mathematics_is_found_and_prices_are_not(answers, text, formulas):
    found = answers.shown(text, "[...root.querySelectorAll('annotation')].map((node) => node.textContent)")
    assert [each.strip() for each in found] == [each.strip() for each in formulas]


def test_a_displayed_formula_has_a_line_of_its_own_and_its_fonts_are_the_pages(answers):
    display = "getComputedStyle(root.querySelector('.katex-display')).display"
    assert answers.shown(r"a $$\sum_{k=1}^n k$$ b", display) == "block"
    assert answers.run("document.fonts.load('16px KaTeX_Main').then((fonts) => fonts.length)") == 1
    fonts = [address for address in answers.addresses if "/fonts/" in address]
    assert fonts
    assert all(address.endswith(".woff2") for address in fonts)


def test_so_many_formulas_that_a_page_would_stand_still_are_not_all_set(answers):
    assert answers.shown("$a$ " * 1200, "root.querySelectorAll('.katex').length") == 1000
    assert answers.shown("$a$ " * 1200, "root.querySelectorAll('.math').length") == 1200


@pytest.mark.parametrize(
    "formula",
    [
        r"\frac{1",
        r"\nosuchcommand",
        "x^2^3",
        "\U0001f34f",
        r"\begin{foo}x\end{foo}",
        "x" * 5000,
    ],
)
def test_what_is_no_mathematics_stays_as_it_was_written(answers, formula):
    assert answers.shown(f"$${formula}$$", "root.textContent") == f"$${formula}$$"


def test_groups_that_are_nested_too_deep_break_nothing(answers):
    """Whether they are set depends on the browser's stack: the text is there either way."""
    assert answers.shown("$$" + "{" * 2000 + "}" * 2000 + "$$ and on", "root.textContent").endswith("and on")
