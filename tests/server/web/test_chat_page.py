"""The chat page in a real browser, against a real server and a real worker."""

import json
import subprocess
from pathlib import Path

import pytest

REAL = Path(__file__).parent.parent / "real_serve.py"
LAST = "#messages article:last-child"
STOP = "document.querySelector('#stop').hidden"
IS_WRITING = f"document.querySelector('{LAST} .text.markdown')?.innerText.length > 20 && !{STOP}"
IS_DONE = f"{STOP} && document.querySelector('#messages').getAttribute('aria-busy') === 'false'"


@pytest.fixture(scope="module")
def real(launch, starter_model):
    server = launch([REAL, "smollm2-135m", starter_model])
    server.wait_for(lambda: "is loaded" in "".join(server.lines), patience_seconds=60)
    return server


@pytest.fixture
def page(open_page, real):
    page = open_page(f"{real.url}/")
    page.wait("model.value")
    return page


def ask(page, question):
    page.run("question.focus()")
    page.type(question)
    page.press("Enter")


def line_of(status, chart):
    return status.run(f"document.querySelector('#{chart} canvas').toDataURL()")


def set_sampling(page, **fields):
    page.run(f"localStorage.setItem('bramley.sampling', '{json.dumps(fields)}')")
    page.reload()
    page.wait("model.value")


def test_a_person_picks_a_model_asks_stops_asks_again_and_runs_the_copied_command(page, open_page, real):
    status = open_page(f"{real.url}/status")
    status.wait("document.querySelector('#requests .chart-now').innerText.startsWith('0')")
    assert "loaded" in page.text("#model")
    page.run("model.value = 'smollm2-135m'; model.dispatchEvent(new Event('change'))")
    ask(page, "Tell me a long story about a bramley apple.")
    page.wait(IS_WRITING)
    before = line_of(status, "rate")
    status.wait("document.querySelector('#requests .chart-now').innerText.startsWith('1')")
    status.wait("parseInt(document.querySelector('#rate .chart-now').innerText) > 0")
    assert line_of(status, "rate") != before
    assert "running" in status.text("#models")
    page.press("Escape")
    page.wait(IS_DONE)
    status.wait("document.querySelector('#requests .chart-now').innerText.startsWith('0')")
    stopped = page.text(f"{LAST} .text.markdown")
    assert "stopped" in page.text(f"{LAST} .figures")
    assert page.text("#spoken") == "Stopped"

    page.run("document.querySelector('[aria-label=\"Answer again\"]').click()")
    page.wait(IS_WRITING)
    page.click("#stop")
    page.wait(IS_DONE)
    assert page.text(f"{LAST} .text.markdown") != stopped
    assert page.run("document.querySelectorAll('#messages article').length") == 2

    set_sampling(page, temperature=0)
    page.click("#new")
    ask(page, "What is the capital of France?")
    page.wait(IS_DONE + f" && document.querySelector('{LAST} .figures')?.innerText.includes('tokens/s')")
    answer = page.text(f"{LAST} .text.markdown").strip()
    assert answer == "The capital of France is Paris."
    assert "first after" in page.text(f"{LAST} .figures")
    assert page.run("document.querySelector('#context').value") > 0
    page.run("navigator.clipboard.writeText = async (text) => { globalThis.copied = text }")
    page.click(f'{LAST} [aria-label="Copy as curl"]')
    command = page.wait("globalThis.copied")
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == answer
