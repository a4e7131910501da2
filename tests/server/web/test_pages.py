"""The pages in a real browser, over a fake worker whose answers are scripts."""

import json

import pytest

LAST = "#messages article:last-child"
IS_DONE = "document.querySelector('#stop').hidden && !!document.querySelector('#messages article.answer')"


@pytest.fixture
def page(open_page, fake):
    page = open_page(f"{fake.url}/")
    page.wait("model.value")
    return page


def say(page, **script):
    page.run("question.focus()")
    page.type(json.dumps(script))
    page.press("Enter")


def answer(page):
    page.wait(IS_DONE)
    return page.text(f"{LAST} .text.markdown").strip()


def test_a_hostile_answer_is_read_not_run(page):
    say(page, say="<img src=x onerror=hurt()> **b** <script>hurt()</script>")
    assert answer(page) == "<img src=x onerror=hurt()> b <script>hurt()</script>"
    assert page.run(f"document.querySelectorAll('{LAST} .markdown strong').length") == 1


def test_an_answer_with_mathematics_code_and_a_table_is_set_while_it_comes_and_when_it_is_opened_again(page):
    say(
        page,
        say="So $x^2$:\n\n$$\n\\frac{a}{b}\n$$\n\n- [x] done[^n]\n\n```py\ndef f(): ...\n```\n\n|a|\n|-|\n\n[^n]: b",
    )
    names = [".katex", ".katex-display", ".task", ".hljs-keyword", "th", ".footnotes"]
    shown = f"{names}.map((name) => document.querySelectorAll(`{LAST} ${{name}}`).length)"
    answer(page)
    assert page.run(shown) == [2, 1, 1, 1, 1, 1]
    page.reload()
    page.click(".conversation")
    page.wait(f"!!document.querySelector('{LAST} .katex')")
    assert page.run(shown) == [2, 1, 1, 1, 1, 1]


def test_a_question_can_be_edited_and_its_conversation_is_kept(page):
    page.run("question.focus()")
    page.type("first line")
    page.press("Enter", shift=True)
    page.type("second line")
    page.press("Enter")
    assert answer(page) == "You said: first line\nsecond line"
    say(page, say="another")
    page.wait("document.querySelectorAll('#messages article').length === 4")
    answer(page)
    page.run("document.querySelector('[aria-label=\"Edit and ask again\"]').click()")
    page.run("document.querySelector('.editing textarea').value = 'something else'")
    page.press("Enter")
    page.wait("document.querySelectorAll('#messages article').length === 2")
    assert answer(page) == "You said: something else"
    page.reload()
    assert page.text("#conversations li") == "something else"
    page.click(".conversation")
    assert answer(page) == "You said: something else"
    page.run("document.querySelector('[aria-label=\"Delete: something else\"]').click()")
    assert page.run("document.querySelectorAll('#conversations li, #messages article').length") == 0


def test_the_second_model_and_the_settings_go_into_the_request(page):
    page.run("model.value = 'second'; model.dispatchEvent(new Event('change'))")
    page.click("#open-settings")
    page.run("document.querySelector('#sampling-temperature').focus()")
    page.type("0.5")
    page.run("system.focus()")
    page.type("Be brief.")
    page.click("#settings [type=submit]")
    page.run("question.focus()")
    page.type("show")
    page.press("Enter")
    shown = json.loads(answer(page))
    assert [message["content"] for message in shown["messages"]] == ["Be brief.", "show"]
    page.run("navigator.clipboard.writeText = async (text) => { globalThis.copied = text }")
    page.click(f'{LAST} [aria-label="Copy as curl"]')
    command = page.wait("globalThis.copied")
    assert '"temperature": 0.5' in command
    assert '"model": "second"' in command


def test_a_wait_for_the_first_word_is_explained(page):
    say(page, say="late", first_seconds=2)
    page.wait(f"document.querySelector('{LAST} .waiting').innerText === 'Reading the question'")
    assert answer(page) == "late"


def test_a_long_prefill_shows_the_tokens_so_far(page):
    say(page, say="late", first_seconds=6, prefilled=3)
    page.wait(f"/^Reading the question: 3 of \\d+ tokens$/.test(document.querySelector('{LAST} .waiting').innerText)")
    assert answer(page) == "late"


def test_an_error_is_told_in_the_servers_words(page):
    page.run("question.focus()")
    page.type("raise")
    page.press("Enter")
    page.wait(f"!!document.querySelector('{LAST} .error:not([hidden])')")
    assert page.text(f"{LAST} .error") == "The template refused these messages."
    assert page.complaints
    page.complaints.clear()  # the browser notes every answer with a status of 400


def test_the_keyboard_and_screen_readers_find_their_way(page):
    page.run("document.activeElement.blur()")
    page.press("/")
    assert page.run("document.activeElement.id") == "question"
    assert page.run("question.value") == ""
    nameless = page.run(
        "[...document.querySelectorAll('button, input, select, textarea, meter')].filter((node) =>"
        " !(node.getAttribute('aria-label') || node.labels?.[0]?.innerText || node.labels?.[0]?.textContent"
        " || node.textContent.trim())).map((node) => node.outerHTML)"
    )
    assert nameless == []
    assert page.run("document.querySelector('#messages').getAttribute('aria-live')") == "polite"


@pytest.mark.parametrize("dark", [False, True])
def test_the_colours_follow_the_system_until_the_switch_is_used(open_page, fake, dark):
    page = open_page(f"{fake.url}/", dark=dark)
    shade = "parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]) < 128"
    assert page.run(shade) is dark
    page.click("#theme")
    assert page.run(shade) is not dark
    page.open(f"{fake.url}/docs")
    assert page.run(shade) is not dark


@pytest.mark.parametrize("path", ["/", "/status", "/docs"])
def test_a_phone_needs_no_scrolling_sideways(open_page, fake, path):
    page = open_page(f"{fake.url}{path}", width=360, height=740)
    assert page.run("document.documentElement.scrollWidth") <= 360
    if path == "/":
        page.click("#menu")
        page.wait("getComputedStyle(document.querySelector('#sidebar')).visibility === 'visible'")
        page.click("#new")
        page.wait("getComputedStyle(document.querySelector('#sidebar')).visibility === 'hidden'")


def test_a_key_is_asked_for_and_kept_out_of_the_command(open_page, start_fake):
    page = open_page(f"{start_fake(api_keys='secret-key').url}/")
    page.wait("!!document.querySelector('dialog[open] #key-input')")
    page.type("wrong")
    page.press("Enter")
    page.wait("document.querySelector('dialog[open]')?.innerText.includes('not accepted')")
    page.type("secret-key")
    page.press("Enter")
    page.wait("model.value")
    say(page, say="hello")
    assert answer(page) == "hello"
    page.run("navigator.clipboard.writeText = async (text) => { globalThis.copied = text }")
    page.click(f'{LAST} [aria-label="Copy as curl"]')
    assert "$BRAMLEY_API_KEY" in page.wait("globalThis.copied")
    assert "secret-key" not in page.run("globalThis.copied")
    assert page.complaints
    page.complaints.clear()  # the browser notes every answer with a status of 401


def test_the_page_about_the_api_shows_every_route_and_tries_one(open_page, fake):
    page = open_page(f"{fake.url}/docs")
    page.wait("!!document.querySelector('.operation')")
    with fake.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    assert page.run("document.querySelectorAll('.operation').length") == sum(map(len, paths.values()))
    page.click(".operation summary")
    page.wait("!!document.querySelector('.operation textarea')")
    page.click(".operation .primary")
    page.wait("document.querySelector('.operation pre').innerText.includes('You said: What is the capital')")
    assert "temperature" in page.text(".operation table")


def test_without_a_status_route_the_page_reads_what_there_is(open_page, fake):
    without = (
        "const real = fetch; globalThis.fetch = (path, options) => path === '/v1/status'"
        " ? Promise.resolve(new Response('{}', {status: 404})) : real(path, options);"
    )
    page = open_page(f"{fake.url}/status", first=without)
    page.wait("document.querySelectorAll('.model').length === 2")
    page.wait("/[1-9] s ago to now/.test(document.querySelector('#requests [role=img]').getAttribute('aria-label'))")
    assert "org/fake" in page.text("#models")
    assert page.text("#state") == "Answering"


def test_the_charts_tell_their_values_and_follow_the_theme(open_page, fake):
    history = (
        "const real = fetch; globalThis.fetch = async (path, options) => { const response = await real(path, options);"
        " if (path !== '/v1/status') return response; const status = await response.json();"
        " const last = status.history.samples.at(-1); status.history.samples = [...Array(121).keys()].map((index) =>"
        " ({...last, at: last.at + index - 120, running: index % 7, queued: 3, generated_tokens: 50 * index}));"
        " return new Response(JSON.stringify(status)); };"
    )
    page = open_page(f"{fake.url}/status", first=history)
    page.wait("document.querySelector('#rate [role=img]').getAttribute('aria-label')?.includes('2 min ago to now')")
    assert "now 50" in page.run("document.querySelector('#rate [role=img]').getAttribute('aria-label')")
    assert page.text("#rate .u-legend") == "atnowwritten50"
    assert page.run("document.querySelectorAll('#requests .u-series').length") == 3
    picture = "document.querySelector('#requests canvas').toDataURL()"
    before = page.run(picture)
    page.click("#theme")
    page.wait(f"{picture} !== {json.dumps(before)}")
    assert page.run("document.querySelector('#requests canvas').width") > 100


def test_models_are_loaded_and_unloaded_from_the_status_page(open_page, start_fake):
    page = open_page(f"{start_fake(names=('first', 'org--other')).url}/status")
    page.click('[aria-label="Load org/other"]')
    page.wait("!!document.querySelector('[aria-label=\"Unload org/other\"]')")
    assert "context 4,096" in page.text(".model:nth-child(2)").replace("\n", " ")
    page.click('[aria-label="Unload org/other"]')
    page.wait("!!document.querySelector('[aria-label=\"Load org/other\"]')")
    assert page.text("#state") == "Answering"


def test_downloads_show_how_far_they_are(open_page, fake):
    pull = {"id": "org/big", "state": "running", "done_bytes": 250_000_000, "total_bytes": 1_000_000_000}
    with_pull = (
        "const real = fetch; globalThis.fetch = async (path, options) => { const response = await real(path, options);"
        " return path === '/v1/status'"
        f" ? new Response(JSON.stringify({{...await response.json(), pulls: [{json.dumps(pull)}]}})) : response; }}"
    )
    page = open_page(f"{fake.url}/status", first=with_pull)
    page.wait("!!document.querySelector('#pulls progress')")
    assert page.run("document.querySelector('#pulls progress').value") == 0.25
    assert "250 MB of 1 GB" in page.text("#pulls")
