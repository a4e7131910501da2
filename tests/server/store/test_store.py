"""The store: what is listed, what a name may be, and what is never opened."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.store.catalog import Catalog
from server.store.errors import ModelIdInvalid, ModelNotFound, ModelUnfit, StoreBusy, StoreUnusable
from server.store.model_id import parse_model_id
from server.store.pull import pull
from server.store.staging import PARTIAL, Staging
from server.store.store import Store

ROOT = Path(__file__).parents[3]

HOSTILE = [
    "..",
    "../..",
    "../../etc/passwd",
    "a/b/../../c",
    "a/../b",
    "./a",
    "/etc/passwd",
    "~/a",
    "a\0b",
    "\0",
    "",
    " ",
    "a b",
    "a\nb",
    "a/b/c",
    "a//b",
    "/a",
    "a/",
    "a\\b",
    "..\\a",
    "%2e%2e%2fa",
    "a%00b",
    ".hidden",
    ".partial",
    "a..b",
    "a--b",
    "-a",
    "a-",
    "a:b",
    ":b",
    "a/b:",
    "a/b:c:d",
    "a/b:../c",
    "x" * 97,
    "x" * 10_000,
    "\uff0e\uff0e/a",
    "\u2024\u2024/a",
    "sm\u043ellm2",
    "smollm2\u200b",
    "\u202egguf",
    "m\u00f6del",
    "\u0661",
    "file:///etc/passwd",
    "https://hub/a/b",
    "$(id)",
    "a;b",
    "a|b",
    "*",
    "a?b",
]


class Opened:
    """Which files this process opens while the `with` block runs."""

    recording: list | None = None
    installed = False

    def __enter__(self):
        if not Opened.installed:
            sys.addaudithook(Opened._hook)
            Opened.installed = True
        Opened.recording = []
        return Opened.recording

    def __exit__(self, *_):
        Opened.recording = None

    @staticmethod
    def _hook(event, arguments):
        if event in ("open", "os.listdir", "os.scandir") and Opened.recording is not None:
            Opened.recording.append(arguments[0])


def outside(opened, *roots):
    places = [os.path.realpath(root) for root in roots]
    paths = [os.path.realpath(os.fsdecode(path)) for path in opened if isinstance(path, str | bytes | os.PathLike)]
    return [path for path in paths if not any(path == place or path.startswith(place + "/") for place in places)]


@pytest.fixture
def filled(tmp_path, folder):
    """A store with one model, beside a folder that looks like one of its models."""
    store = Store(tmp_path / "models", tmp_path / "hub", catalog=Catalog())
    pull(str(folder), store)
    (tmp_path / "outside").mkdir()
    for file in (store.root / "my-model").iterdir():
        (tmp_path / "outside" / file.name).write_bytes(file.read_bytes())
    return store


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_are_refused_and_nothing_is_opened(filled, name):
    with Opened() as opened, pytest.raises(ModelIdInvalid) as failure:
        filled.find(name)
    assert opened == []
    assert len(str(failure.value)) < 700
    assert str(failure.value).isascii()


@given(
    st.text(max_size=40)
    | st.lists(st.sampled_from([*"ab./:-_\\\0", "..", "outside", "my-model"]), max_size=12).map("".join)
)
def test_no_name_opens_anything_outside_of_the_store(tmp_path_factory, name):
    root = tmp_path_factory.getbasetemp() / "named"
    store = Store(root / "models", root / "hub", catalog=Catalog())
    (root / "models" / "my-model").mkdir(parents=True, exist_ok=True)
    (root / "outside").mkdir(exist_ok=True)
    with Opened() as opened, suppress(ModelIdInvalid, ModelNotFound):
        store.find(name)
    assert outside(opened, root / "models", root / "hub") == []


@given(
    st.from_regex(r"[A-Za-z0-9._:/-]{1,60}", fullmatch=True), st.from_regex(r"[A-Za-z0-9._:/-]{1,60}", fullmatch=True)
)
def test_different_ids_have_different_folders_directly_under_the_root(first, second):
    folders = []
    for text in (first, second):
        try:
            folders.append(parse_model_id(text).folder_name)
        except ModelIdInvalid:
            return
        assert str(parse_model_id(text)) == text
    assert all("/" not in name and name not in ("", ".", "..") and not name.startswith(".") for name in folders)
    assert (folders[0] == folders[1]) == (first == second)


def test_linked_model_folder_is_not_listed(filled, tmp_path):
    (filled.root / "linked").symlink_to(tmp_path / "outside")
    with Opened() as opened:
        assert [model.id for model in filled.list()] == ["my-model"]
        with pytest.raises(ModelNotFound):
            filled.find("linked")
    assert outside(opened, filled.root, tmp_path / "hub") == []


def test_linked_file_makes_a_model_not_whole(filled, tmp_path):
    weights = filled.root / "my-model" / "model.safetensors"
    weights.unlink()
    weights.symlink_to(tmp_path / "outside" / "model.safetensors")
    assert filled.list() == []


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"[]",
        b"{}",
        b'{"id": 1}',
        b"\xff",
        b"[" * 100_000,
        json.dumps({"id": "my-model", "source": "", "stored": "2026-01-01T00:00:00Z", "files": {}}).encode(),
        json.dumps(
            {
                "id": "my-model",
                "source": "",
                "stored": "2026-01-01T00:00:00Z",
                "files": {"../outside/config.json": {"bytes": 23, "sha256": ""}},
            }
        ).encode(),
        json.dumps(
            {
                "id": "../outside",
                "source": "",
                "stored": "2026-01-01T00:00:00Z",
                "files": {"config.json": {"bytes": 23, "sha256": ""}},
            }
        ).encode(),
    ],
)
def test_folder_with_a_bad_manifest_is_not_listed(filled, manifest):
    (filled.root / "my-model" / "bramley.json").write_bytes(manifest)
    assert filled.list() == []
    with pytest.raises(ModelNotFound):
        filled.find("my-model")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_model_with_a_missing_file_is_not_listed(filled, name):
    (filled.root / "my-model" / name).unlink()
    assert filled.list() == []


def test_folder_without_a_manifest_is_not_listed(filled, folder):
    folder.rename(filled.root / "copied-by-hand")
    assert [model.id for model in filled.list()] == ["my-model"]


def test_unknown_name_is_answered_with_the_nearest(filled):
    with pytest.raises(ModelNotFound) as failure:
        filled.find("my-modle")
    assert failure.value.nearest == ("my-model",)
    assert "nearest names are my-model" in str(failure.value)
    assert str(filled.root) not in str(failure.value)


def test_unknown_name_that_resembles_none_is_answered_with_all(filled):
    with pytest.raises(ModelNotFound, match="Known names are my-model"):
        filled.find("zzz/qqq")


def test_removed_model_is_gone_with_its_bytes(filled):
    num_bytes = sum(file.stat().st_size for file in (filled.root / "my-model").iterdir())
    assert filled.remove("my-model") == num_bytes
    assert filled.list() == []
    assert not (filled.root / "my-model").exists()
    with pytest.raises(ModelNotFound):
        filled.remove("my-model")


def test_unfinished_download_can_be_removed(filled):
    with Staging(filled.root, parse_model_id("org/half")) as staging:
        (staging.workspace("x") / "model.safetensors.part").write_bytes(bytes(1000))
    assert filled.remove("org/half") == 1000
    assert not list((filled.root / PARTIAL).glob("org--half/"))


def test_folder_that_is_not_the_stores_cannot_be_removed(filled):
    (filled.root / "notes").mkdir()
    with pytest.raises(ModelNotFound):
        filled.remove("notes")
    assert (filled.root / "notes").is_dir()


def test_model_that_is_being_pulled_cannot_be_removed(filled):
    with Staging(filled.root, parse_model_id("my-model")), pytest.raises(StoreBusy) as failure:
        filled.remove("my-model")
    assert failure.value.exit_code == 5
    assert filled.find("my-model").id == "my-model"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_cannot_be_written_is_one_line(tmp_path, folder):
    (tmp_path / "models").mkdir(mode=0o500)
    with pytest.raises(StoreUnusable, match="Permission denied"):
        pull(str(folder), Store(tmp_path / "models", catalog=Catalog()))


def test_root_that_is_a_file_is_one_line(tmp_path, folder):
    (tmp_path / "models").write_text("")
    with pytest.raises(StoreUnusable, match="choose another with --models-dir"):
        pull(str(folder), Store(tmp_path / "models", catalog=Catalog()))


@pytest.mark.slow
def test_looking_into_the_store_imports_nothing_slow():
    code = (
        "import sys, server.store.store, server.store.pull\n"
        "slow = {'huggingface_hub', 'httpx', 'httpx2', 'pip', 'rich', 'typer', 'pydantic', 'mlx', 'numpy'}\n"
        "sys.exit(', '.join(slow & set(sys.modules)) or 0)"
    )
    started = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - started < 1.0


def test_model_in_the_cache_is_not_ours_to_remove(tmp_path):
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "m.gguf").write_bytes(b"GGUF")
    store = Store(tmp_path / "models", tmp_path / "hub", catalog=Catalog())
    with pytest.raises(ModelUnfit, match="Hugging Face cache"):
        store.remove("org/name")
    assert (snapshot / "m.gguf").exists()
