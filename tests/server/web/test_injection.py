"""Nothing a model writes becomes more than text, whatever the libraries make of it."""

import json

import pytest

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


HURT = (
    "<script>hurt()</script>",
    "<img src=x onerror=hurt()>",
    "<svg><script>hurt()</script></svg>",
    "<svg onload=hurt()>",
    "<svg><a xlink:href='javascript:hurt()'><text>a</text></a></svg>",
    "<svg><use href='data:image/svg+xml,<svg onload=hurt()>#x'/></svg>",
    "<math><maction actiontype='statusline' xlink:href='javascript:hurt()'>a</maction></math>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=hurt()&gt;'>",
    "<form><math><mtext></form><form><mglyph><style></math><img src onerror=hurt()>",
    "<div style='background:url(https://evil.example/)'>a</div>",
    "<form id=body><input name=attributes></form><a id=model><a id=model name=value>",
    "<template shadowrootmode=open><script>hurt()</script></template>",
    "<noscript><p title='</noscript><img src=x onerror=hurt()>'>",
    "[a](javascript:hurt())",
    "[a](&#106;avascript:hurt())",
    "[a](data:text/html;base64,PHNjcmlwdD5odXJ0KCk8L3NjcmlwdD4=)",
    "<javascript:hurt()>",
    "![a](data:image/svg+xml,<svg/onload=hurt()>)",
)
# Where a model may put it: each is a place that a plugin or the page itself makes something of.
PLACES = {
    "paragraph": "{}",
    "heading": "# {}",
    "list": "- [x] {}\n  - {}",
    "table": "| {} | b |\n|---|---|\n| c | {} |",
    "quote": "> {}",
    "code": "```html {}\n{}\n```",
    "code in a line": "`{}`",
    "footnote": "a[^n] b^[{}]\n\n[^n]: {}",
    "name of a footnote": "a[^{}]\n\n[^{}]: b",
    "link's text": "[{}](https://example.com)",
    "link's title": 'a [b](https://example.com "{}")',
    "reference": "[a][b]\n\n[b]: {}",
    "mathematics": "$x {}$ \\({}\\)",
    "block of mathematics": "$$\n\\text{{{}}}\n$$",
    "open mathematics": "$$\n{}",
}
OF_THE_PAGE = """
    a blockquote br button code div em h2 h3 h4 h5 h6 hr input li ol p path pre s section span strong sup svg table
    tbody td th thead tr ul
"""
OF_MATHEMATICS = """
    annotation line math menclose mfrac mi mlabeledtr mmultiscripts mn mo mover mpadded mphantom mroot mrow ms mspace
    msqrt mstyle msub msubsup msup mtable mtd mtext mtr munder munderover semantics
"""
ALLOWED_TAGS = {*OF_THE_PAGE.split(), *OF_MATHEMATICS.split()}
FORBIDDEN_ATTRIBUTES = {
    "action", "background", "data", "formaction", "name", "ping", "src", "srcdoc", "srcset", "xlink:href",
}  # fmt: skip
# What an answer became, a frame after it was put into the page.
INSPECTED = """
    (async () => {
      await new Promise(requestAnimationFrame);
      const all = [...root.querySelectorAll("*")];
      const leads = (node) => node.hasAttribute("href") && !node.getAttribute("href").startsWith("#text-");
      return {
        tags: [...new Set(all.map((node) => node.tagName.toLowerCase()))],
        names: [...new Set(all.flatMap((node) => node.getAttributeNames()))],
        num_styles: all.filter((node) => node.hasAttribute("style") && !node.closest(".katex")).length,
        ids: all.filter((node) => node.id).map((node) => node.id),
        links: [...new Set(all.filter(leads).flatMap((node) => [node.protocol, node.rel, node.target]))],
      };
    })()
"""


def check_harmless(answers, text):
    found = answers.shown(text, f"await {INSPECTED}")
    assert set(found["tags"]) <= ALLOWED_TAGS, text
    assert not FORBIDDEN_ATTRIBUTES & set(found["names"]), text
    assert not [name for name in found["names"] if name.startswith("on")], text
    assert found["num_styles"] == 0, text
    assert all(each.startswith("text-") for each in found["ids"]), text
    assert set(found["links"]) <= {"https:", "noopener noreferrer", "_blank"}, text
    assert answers.run("typeof globalThis.hurt") == "undefined"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(answers, text):
    check_harmless(answers, text)


@pytest.mark.parametrize("place", PLACES)
def test_hostile_text_stays_text_wherever_it_stands(answers, place):
    for each in HURT:
        check_harmless(answers, PLACES[place].replace("{}", each).replace("{{", "{").replace("}}", "}"))


@pytest.mark.parametrize(
    "formula",
    [
        r"\href{javascript:hurt()}{a}",
        r"\href{https://evil.example}{a}",
        r"\url{https://evil.example}",
        r"\includegraphics{https://evil.example/a.png}",
        r"\htmlClass{brand}{a}",
        r"\htmlId{model}{a}",
        r"\htmlStyle{position: fixed; inset: 0}{a}",
        r"\htmlData{icon=menu}{a}",
        r"\def\x{\x\x}\x",
        r"\def\a{\b\b}\def\b{\c\c}\def\c{\d\d}\def\d{\e\e\e\e}\def\e{\a}\a",
        r"\text{<img src=x onerror=hurt()>}",
        r"\text{</annotation><script>hurt()</script>}",
        r"\unicode{x3c}script\unicode{x3e}",
        r"\color{red;background:url(https://evil.example)}a",
        r"\textcolor{expression(hurt())}{a}",
        r"\colorbox{url(https://evil.example)}{a}",
        r"\fcolorbox{red}{yellow}{a}\pmb{b}\enclose{box}{c}",
        r"\rule{99999em}{99999em}",
        r"\kern{1e9em}\raisebox{1e9em}{a}",
    ],
)
def test_a_formula_makes_no_links_classes_or_styles_of_its_own(answers, formula):
    text = f"${formula}$\n\n$$\n{formula}\n$$\n\n| ${formula}$ |\n|---|\n\na^[\\({formula}\\)]"
    check_harmless(answers, text)
    own = ".math a, .math img, .math .brand, .math #model, .math [data-icon]"
    assert answers.shown(text, f"root.querySelectorAll({json.dumps(own)}).length") == 0
    positions = "[...root.querySelectorAll('.math *')].map((node) => getComputedStyle(node).position)"
    assert "fixed" not in answers.shown(text, positions)
    assert answers.shown(text, "root.scrollHeight") < 5000


def test_ids_of_an_answer_hide_nothing_of_the_page(answers):
    names = "[document.body === document.querySelector('body'), model.tagName, typeof document.cookie]"
    text = "<a id=model></a> # model {#model}\n\n[^model]: x\n\na[^model] [b](#model) [](#body)"
    assert answers.run(names) == answers.shown(text, names) == [True, "SELECT", "string"]
    check_harmless(answers, text)
