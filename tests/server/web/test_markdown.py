"""Markdown becomes elements, and nothing a model writes becomes more than that."""

import json

import pytest


@pytest.fixture(scope="module")
def page(browser, fake):
    page = browser.page()
    page.open(f"{fake.url}/")
    page.run(
        "import('/web/markdown.js').then(({ MarkdownView }) => { globalThis.show = (text) => {"
        " const root = document.createElement('div'); document.body.append(root); new MarkdownView(root).update(text);"
        " return root; }; globalThis.MarkdownView = MarkdownView })"
    )
    yield page
    page.check(fake.url)
    page.close()


def markup(page, text):
    return page.run(f"(() => {{ const root = show({json.dumps(text)}); root.remove(); return root.innerHTML; }})()")


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
        (r"\*not\* \<so\>", "<p>*not* &lt;so&gt;</p>"),
        ("an open **mark and `tick", "<p>an open **mark and `tick</p>"),
    ],
)
def test_markdown_becomes_elements(page, text, expected):
    if expected is None:
        expected = "<p><strong><em>both</em></strong> <s>gone</s> <strong>so</strong> <em>so</em></p>"
    assert markup(page, text) == expected


def test_code_and_tables_keep_their_text(page):
    found = page.run(
        "(() => { const root = show('```js\\nconst a = \"<b>\"; // c\\n```\\n\\n|a|b|\\n|:-|-:|\\n|1|`x\\\\|y`|');"
        " return [root.querySelector('pre').textContent, root.querySelector('.code-head span').textContent,"
        " [...root.querySelectorAll('th, td')].map((cell) => cell.textContent + cell.className)]; })()"
    )
    assert found == ['const a = "<b>"; // c', "js", ["a", "bright", "1", "x|yright"]]


def test_a_growing_text_is_shown_like_the_whole_one(page):
    text = "# T\n\nA **b** c\n\n- x\n- y\n\n```py\nprint(1)\n```\n\nz | w\n--|--\n1 | 2\n"
    grown = page.run(
        f"(() => {{ const root = document.createElement('div'), view = new MarkdownView(root); let text = '';"
        f" for (const each of {json.dumps(text)}) view.update(text += each); return root.innerHTML; }})()"
    )
    assert grown == markup(page, text)


HOSTILE = [
    "<script>hurt()</script>",
    "<img src=x onerror=hurt()>",
    "<iframe srcdoc='<script>hurt()</script>'></iframe>",
    "[a](javascript:hurt())",
    "[a](JaVaScRiPt:hurt())",
    "[a](java\tscript:hurt())",
    "[a](data:text/html,<script>hurt()</script>)",
    "[a](vbscript:hurt())",
    "![a](https://evil.example/pixel.png)",
    '<https://evil.example/?a=" onmouseover="hurt()>',
    '[a](https://evil.example/"onmouseover="hurt())',
    '```html" onload="hurt()\n<script>hurt()</script>\n```',
    "| <script>hurt()</script> | b |\n|---|---|\n| <img src=x onerror=hurt()> | `</code><script>hurt()</script>` |",
    "<a href='javascript:hurt()'>a</a><style>*{display:none}</style><base href='https://evil.example/'>",
    "&lt;script&gt;hurt()&lt;/script&gt; &#60;img src=x onerror=hurt()&#62;",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(page, text):
    found = page.run(
        f"(() => {{ const root = show({json.dumps(text)}); const all = [...root.querySelectorAll('*')];"
        " return {tags: all.map((node) => node.tagName.toLowerCase()),"
        " names: all.flatMap((node) => node.getAttributeNames()),"
        " links: all.flatMap((node) => node.href ? [node.protocol, node.rel, node.target] : [])}; })()"
    )
    assert not set(found["tags"]) & {"script", "img", "iframe", "style", "base", "object", "embed", "form", "link"}
    assert not [name for name in found["names"] if name.startswith("on") or name in ("style", "src", "srcdoc")]
    assert set(found["links"]) <= {"https:", "noopener noreferrer", "_blank"}
    assert page.run("typeof globalThis.hurt") == "undefined"


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
    ],
)
def test_the_time_grows_with_the_text_and_not_with_its_square(page, piece):
    """Squared, 150,000 characters would outlast the browser's patience many times."""
    page.run(f"show({json.dumps(piece)}.repeat({150_000 // len(piece)}) + 'x').remove()")
