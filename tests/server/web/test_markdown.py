"""Markdown becomes elements: what people read, however it grows."""

import json
import re

import pytest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Some *words* and **more**.", "<p>Some <em>words</em> and <strong>more</strong>.</p>"),
        ("***both*** ~~gone~~ __so__ _so_", None),
        ("snake_case_name and 2 * 3 * 4", "<p>snake_case_name and 2 * 3 * 4</p>"),
        ("# One\n\n### Three ##", "<h2>One</h2><h4>Three</h4>"),
        ("a\nb", "<p>a<br>b</p>"),
        ("- a\n- b\n  1. c\n  2. d", "<ul><li>a</li><li>b<ol><li>c</li><li>d</li></ol></li></ul>"),
        ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
        ("> a\n> > b", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>"),
        ("a `<b>` ``c`d``", "<p>a <code>&lt;b&gt;</code> <code>c`d</code></p>"),
        ("---", "<hr>"),
        ("[ ] a\n\n- [y] b\n- [x]c", "<p>[ ] a</p><ul><li>[y] b</li><li>[x]c</li></ul>"),
        (r"\*not\* \<so\>", "<p>*not* &lt;so&gt;</p>"),
        ("an open **mark and `tick", "<p>an open **mark and `tick</p>"),
    ],
)
def test_markdown_becomes_elements(answers, text, expected):
    if expected is None:
        expected = "<p><em><strong>both</strong></em> <s>gone</s> <strong>so</strong> <em>so</em></p>"
    assert answers.shown(text) == expected


def test_code_and_tables_keep_their_text(answers):
    found = answers.run(
        "(() => { const root = show('```js\\nconst a = \"<b>\"; // c\\n```\\n\\n|a|b|\\n|:-|-:|\\n|1|`x\\\\|y`|');"
        " return [root.querySelector('pre').textContent, root.querySelector('.code-head span').textContent,"
        " [...root.querySelectorAll('th, td')].map((cell) => cell.textContent + cell.className)]; })()"
    )
    assert found == ['const a = "<b>"; // c', "js", ["a", "bright", "1", "x|yright"]]


EVERYTHING = r"""# T

A **b** c $x^2$ and \(y\)[^a], then
$$
\frac{1}{2}
$$

- x
- [x] y
  1. z

```py
print(1)
```

z | w
--|--
1 | $2$

\[ \begin{matrix} 1 & 2 \\ 3 & 4 \end{matrix} \]

[^a]: A note.
"""


def test_a_growing_text_is_shown_like_the_whole_one(answers):
    grown = answers.run(
        f"(() => {{ const root = document.createElement('div'), view = new MarkdownView(root); let text = '';"
        f" for (const each of {json.dumps(EVERYTHING)}) view.update(text += each); return root.innerHTML; }})()"
    )
    assert _without_numbers(grown) == _without_numbers(answers.shown(EVERYTHING))


def _without_numbers(shown):
    """The number of the view is part of the addresses of footnotes."""
    return re.sub(r"text-\d+-", "text-", shown)


def test_what_is_shown_stays_the_same_node_while_more_is_written(answers):
    kept = answers.run(
        "(() => { const root = document.createElement('div'), view = new MarkdownView(root);"
        " view.update('$a$\\n\\n```js\\nb\\n```\\n\\nc'); const before = [...root.children];"
        " view.update('$a$\\n\\n```js\\nb\\n```\\n\\nc and more\\n\\n- d');"
        " return before.map((node, at) => node === root.children[at]); })()"
    )
    assert kept == [True, True, False]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "- [x] a\n- [ ] **b**\n- c",
            '<ul><li class="task"><input type="checkbox" disabled="" checked="" aria-label="Done"> a</li>'
            '<li class="task"><input type="checkbox" disabled="" aria-label="To do"> <strong>b</strong></li>'
            "<li>c</li></ul>",
        ),
        ("1. a\n   - [x] b\n     1. c", None),
    ],
)
def test_task_lists_have_boxes_that_nobody_can_tick(answers, text, expected):
    found = answers.shown(text)
    assert expected is None or found == expected
    assert found.count("<input") == found.count('disabled=""') == text.count("[")


def test_lists_nest_as_deep_as_they_are_written(answers):
    text = "\n".join(f"{'  ' * depth}- {depth}" for depth in range(8))
    assert answers.shown(text, "root.querySelectorAll('ul').length") == 8
    assert answers.shown(text, "root.querySelectorAll('ul ul ul ul ul ul ul ul').length") == 1


def test_footnotes_lead_there_and_back_in_every_answer(answers):
    text = "One[^a] two[^b] one again[^a], inline^[third].\n\n[^a]: *First*.\n[^b]: Second $x$."
    answers.run(f"globalThis.earlier = show({json.dumps(text)})")
    leads = "[...root.querySelectorAll('a')].map((each) => root.contains(document.getElementById(each.hash.slice(1))))"
    assert answers.shown(text, leads) == [True] * 8
    assert answers.shown(text, leads.replace("root", "earlier")) == [True] * 8
    marks = "[...root.querySelectorAll('sup')].map((each) => each.innerText)"
    assert answers.shown(text, marks) == ["1", "2", "1", "3"]
    notes = "[...root.querySelectorAll('.footnotes li')].map((each) => each.querySelector('p').firstChild.textContent)"
    assert answers.shown(text, notes) == ["First", "Second ", "third"]
    answers.run("earlier.remove()")


def test_a_footnote_without_its_text_is_text(answers):
    assert answers.shown("One[^a].") == "<p>One[^a].</p>"


def test_long_code_keeps_every_line_and_is_coloured_up_to_a_limit(answers):
    code = "".join(f"value_{number} = {number}  # a comment\n" for number in range(3000))
    assert answers.shown(f"```python\n{code}```", "root.querySelector('code').innerHTML") == code.rstrip("\n")
    short = answers.shown(f"```python\n{code[:1000]}\n```")
    assert short.count("hljs-comment") > 20


@pytest.mark.parametrize(
    ("language", "code", "scope"),
    [
        ("python", "def f(): pass", "hljs-keyword"),
        ("js", "const a = 1", "hljs-keyword"),
        ("html", "<a href='b'>c</a><script>let d = 1</script>", "hljs-name"),
        ("dockerfile", "FROM python", "hljs-keyword"),
        ("powershell", "Get-Item $x", "hljs-variable"),
        ("rust", "fn main() {}", "hljs-keyword"),
        ("json", '{"a": 1}', "hljs-attr"),
        ("diff", "+ a", "hljs-addition"),
    ],
)
def test_code_is_coloured_by_its_language(answers, language, code, scope):
    text = f"```{language}\n{code}\n```"
    assert answers.shown(text, "root.querySelector('code').textContent") == code
    assert answers.shown(text, f"root.querySelectorAll('code .{scope}').length") > 0


@pytest.mark.parametrize(
    "piece",
    [
        "[",
        "*a ",
        "**",
        "_a",
        "`",
        "``a`",
        "~",
        "> ",
        "- ",
        "  - ",
        "|-",
        "#",
        "<",
        "![](",
        "\\",
        " ",
        "\n",
        "1. ",
        "```\n",
        "*a*",
        "h",
        "https://a",
        "[a](",
        "- \n\n",
        "~~~ `",
        "```" + " " * 50 + "`\n",
        "$",
        "$a ",
        "$a$ ",
        "$$",
        "$$\n",
        "$$a\n",
        "$$a\n\n",
        "$$a$$\n\n",
        "\\(",
        "\\(\\\\)",
        "\\[",
        "\\[\n",
        "\\[ \n\n",
        "[^a",
        "[^a]",
        "^[",
        "[^a]: ",
        "[^a]: b\n\n",
        "[^a]: b[^a]\n",
        "- [ ] ",
        "- [ ] a\n",
        "&",
        "<a ",
        "a@b.c ",
        "[a]: <",
    ],
)
def test_the_time_grows_with_the_text_and_not_with_its_square(answers, piece):
    """Squared, 150,000 characters would outlast the browser's patience many times."""
    answers.run(f"show({json.dumps(piece)}.repeat({150_000 // len(piece)}) + 'x').remove()")
    answers.run(f"show('[^a]: b\\n\\n' + {json.dumps(piece)}.repeat({150_000 // len(piece)}) + 'x').remove()")
