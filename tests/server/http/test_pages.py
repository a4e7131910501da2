"""The web pages' files: who gets them, with which headers, and that they ask nobody else for anything."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

WEB = Path(__file__).parents[3] / "server" / "web"
VENDOR_SCRIPT = WEB.parent.parent / "scripts" / "vendor"
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture(scope="module")
def locked(start_fake):
    server = start_fake(api_keys="secret")
    with server.client() as client:
        yield client


@pytest.mark.parametrize(
    "path", ["/", "/web/chat.js", "/web/base.css", "/web/icon.svg", "/web/vendor/katex/katex.min.css"]
)
def test_pages_need_no_key_and_forbid_themselves_everything_else(locked, path):
    response = locked.get(path, headers=BROWSER)
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    again = locked.get(path, headers=BROWSER | {"if-none-match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_whoever_wants_no_html_gets_the_api_with_its_key(locked):
    assert locked.get("/").status_code == 401
    assert locked.get("/", headers={"authorization": "Bearer secret"}).json()["name"] == "bramley"
    assert locked.get("/v1/status", headers=BROWSER).status_code == 401
    assert locked.get("/v1/models", headers=BROWSER).status_code == 401


@pytest.mark.parametrize("path", ["/web/", "/web/..%2fapp.py", "/web/../app.py", "/web/nothing.js", "/v1/web/chat.js"])
def test_only_the_files_of_the_folder_are_there(fake, path):
    response = httpx.get(f"{fake.url}{path}", headers=BROWSER)
    assert response.status_code == 404
    assert response.json()["error"]


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("markdown-it/markdown-it.esm.min.mjs", "text/javascript; charset=utf-8"),
        ("uplot/uPlot.esm.js", "text/javascript; charset=utf-8"),
        ("uplot/uPlot.min.css", "text/css; charset=utf-8"),
        ("katex/fonts/KaTeX_Main-Regular.woff2", "font/woff2"),
        ("katex/LICENSE", "text/plain; charset=utf-8"),
    ],
)
def test_every_kind_of_vendored_file_has_its_content_type(fake, path, content_type):
    response = httpx.get(f"{fake.url}/web/vendor/{path}")
    assert response.status_code == 200
    assert response.headers["content-type"] == content_type
    assert response.content == (WEB / "vendor" / path).read_bytes()


def test_the_guards_stand_before_the_pages_too(client):
    assert client.get("/", headers=BROWSER | {"host": "evil.com"}).status_code == 403
    assert client.post("/", headers={"origin": "https://evil.com"}).status_code == 403


def test_the_files_name_no_other_host_and_make_no_markup_of_text():
    for path in (path for path in WEB.iterdir() if path.is_file()):
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(?:src|href)=\"(?:https?:)?//|@import|\burl\(", text), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), path
        assert path.suffix != ".html" or not re.search(r"\son[a-z]+=\"|\sstyle=\"|<style|<script>", text), path


def test_vendored_libraries_are_what_the_lock_says_and_come_with_their_licences():
    done = subprocess.run([sys.executable, VENDOR_SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    for name, package in json.loads((WEB / "vendor" / "lock.json").read_text()).items():
        assert any(path.startswith("LICENSE") for path in package["files"]), name
        assert package["integrity"].startswith("sha512-")
        assert package["version"][0].isdigit()


def test_a_changed_or_added_vendored_file_is_noticed(tmp_path):
    copied = tmp_path / "server" / "web"
    shutil.copytree(WEB, copied)
    script = tmp_path / "scripts" / "vendor"
    script.parent.mkdir()
    shutil.copy(VENDOR_SCRIPT, script)
    (copied / "vendor" / "katex" / "katex.min.js").write_text("changed")
    (copied / "vendor" / "another.js").write_text("added")
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "server/web/vendor/katex/katex.min.js is not what lock.json says" in done.stderr
    assert "server/web/vendor/another.js is not in lock.json" in done.stderr
