"""Chromium for tests, spoken to over its own pipe. Keeps all it logs and every address it asks for."""

import base64
import json
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
KEYS = {"Enter": 13, "Escape": 27, "/": 191}
PATIENCE_SECONDS = 30


def chromium() -> str | None:
    """Where Chromium is, if it is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One Chromium process with a folder of its own."""

    def __init__(self, folder: Path) -> None:
        to_child, self._out = os.pipe()
        self._in, from_child = os.pipe()
        # It reads from descriptor 3 and writes to 4.
        script = f'exec 3<&{to_child} 4>&{from_child}; exec "$@"'
        command = ["bash", "-c", script, "bash", chromium(), *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command, pass_fds=(to_child, from_child), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        os.close(to_child)
        os.close(from_child)
        self._ids = count(1)
        self._answers: dict[int, queue.Queue] = {}
        self._pages: dict[str, Page] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def page(self, *, width: int = 1200, height: int = 800, dark: bool = False) -> "Page":
        """A window with storage of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, context)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        page.dark(dark)
        return page

    def call(self, method: str, session: str | None = None, **parameters) -> dict[str, Any]:
        number = next(self._ids)
        answer = self._answers[number] = queue.Queue()
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        found = answer.get(timeout=PATIENCE_SECONDS)
        assert "error" not in found, found["error"]
        return found["result"]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._out)

    def _read(self) -> None:
        with os.fdopen(self._in, "rb") as pipe:
            rest = b""
            while data := os.read(pipe.fileno(), 1 << 20):
                *messages, rest = (rest + data).split(b"\0")
                for message in map(json.loads, messages):
                    if "id" in message:
                        self._answers.pop(message["id"]).put(message)
                    elif page := self._pages.get(message.get("sessionId")):
                        page.hear(message["method"], message["params"])


class Page:
    """One window. complaints: errors, warnings and refusals the browser logged; addresses: all it asked for."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self._browser = browser
        self._session = session
        self._context = context
        self.complaints: list[str] = []
        self.addresses: list[str] = []

    def call(self, method: str, **parameters) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def hear(self, event: str, values: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.addresses.append(values["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(values["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(values["args"]))
        elif event == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{values['entry']['text']} {values['entry'].get('url', '')}")

    def close(self) -> None:
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)

    def check(self, url: str) -> None:
        """Nothing was logged, and no other host was asked."""
        assert self.complaints == []
        assert {httpx.URL(address).netloc for address in self.addresses} == {httpx.URL(url).netloc}

    def dark(self, dark: bool) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        self.run("globalThis.isOld = true")
        self.call("Page.navigate", url=url)
        self.wait("!globalThis.isOld && document.readyState === 'complete'")

    def reload(self) -> None:
        self.run("globalThis.isOld = true")
        self.call("Page.reload")
        self.wait("!globalThis.isOld && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression; promises are waited for."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str, patience_seconds: float = PATIENCE_SECONDS) -> Any:
        """The first true value of an expression."""
        deadline = time.monotonic() + patience_seconds
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"it did not become true: {script}"
            time.sleep(0.02)
        return value

    def text(self, selector: str) -> str:
        return self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def shown(self, text: str, value: str = "root.innerHTML") -> Any:
        """The value of an expression about `root`, which shows a text; see the fixture `answers`."""
        return self.run(
            f"(async () => {{ const root = show({json.dumps(text)}); try {{ return {value}; }}"
            " finally { root.remove(); } })()"
        )

    def click(self, selector: str) -> None:
        """With the mouse, where the element is, as soon as it is seen and on top."""
        name = json.dumps(selector)
        x, y = self.wait(
            f"(() => {{ const node = document.querySelector({name}); if (!node) return null;"
            " node.scrollIntoView({block: 'nearest'}); const box = node.getBoundingClientRect();"
            " const x = box.x + box.width / 2, y = box.y + box.height / 2;"
            " return node.contains(document.elementFromPoint(x, y)) && [x, y]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        known = {"key": key, "windowsVirtualKeyCode": KEYS[key], "modifiers": 8 * shift}
        text = {"Enter": "\r", "/": "/"}.get(key)
        self.call("Input.dispatchKeyEvent", type="keyDown", **known, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **known)

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[Browser]:
    if chromium() is None:
        pytest.skip("Chromium is not installed: apt install chromium")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., Page]]:
    """Open an address in a window of its own, which is checked at the end of the test."""
    opened: list[tuple[Page, str]] = []

    def open_page(url: str, *, first: str = "", **options) -> Page:
        """first: a script that runs before the page's own"""
        page = browser.page(**options)
        opened.append((page, url))
        if first:
            page.call("Page.addScriptToEvaluateOnNewDocument", source=first)
        page.open(url)
        return page

    yield open_page
    for page, url in opened:
        page.check(url)
        page.close()


@pytest.fixture(scope="module")
def answers(browser, fake) -> Iterator[Page]:
    """The chat page, where `show(text)` makes an element that shows a text as an answer is shown."""
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
