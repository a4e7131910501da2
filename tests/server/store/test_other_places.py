"""Models of LM Studio and Ollama: found where these programs keep them, listed as theirs, and never written."""

import hashlib
import json

import pytest

from server.settings import Settings
from server.store.catalog import Catalog
from server.store.errors import ModelNotFound, ModelUnfit
from server.store.places import other_places
from server.store.store import Store

GGUF = b"GGUF" + bytes(60)


@pytest.fixture
def lm_studio(tmp_path):
    return tmp_path / "lm-studio"


@pytest.fixture
def ollama(tmp_path):
    return tmp_path / "ollama"


@pytest.fixture
def store(tmp_path, lm_studio, ollama):
    return Store(tmp_path / "models", catalog=Catalog(), others=other_places([lm_studio], [ollama]))


def add_to_ollama(root, place, *, size=None, kinds=("model",)):
    digest = hashlib.sha256(GGUF).hexdigest()
    layers = [
        {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": f"sha256:{digest}", "size": size or len(GGUF)}
        for kind in kinds
    ]
    manifest = root / "manifests" / place
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    (root / "blobs").mkdir(exist_ok=True)
    (root / "blobs" / f"sha256-{digest}").write_bytes(GGUF)
    return root / "blobs" / f"sha256-{digest}"


def test_models_of_lm_studio_are_found_and_listed_as_its_own(store, lm_studio):
    folder = lm_studio / "org" / "Name-GGUF"
    folder.mkdir(parents=True)
    (folder / "Name-Q4_0.gguf").write_bytes(GGUF)
    (folder / "mmproj-Name.gguf").write_bytes(GGUF)
    model = store.find("org/Name-GGUF")
    assert (model.path, model.format, model.source) == (folder / "Name-Q4_0.gguf", "gguf", "LM Studio")
    assert store.list() == [model]
    (folder / "Name-Q8_0.gguf").write_bytes(GGUF)
    assert [each.id for each in store.list()] == ["org/Name-GGUF:Q4_0", "org/Name-GGUF:Q8_0"]


def test_folders_for_mlx_are_found_too(store, lm_studio, files):
    folder = lm_studio / "mlx-community" / "tiny"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    assert store.find("mlx-community/tiny").path == folder


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("registry.ollama.ai/library/llama3.2/3b", "ollama/llama3.2:3b"),
        ("registry.ollama.ai/someone/tuned/latest", "someone/tuned:latest"),
        ("hf.co/org/name-GGUF/Q4_0", "org/name-GGUF:Q4_0"),
    ],
)
def test_models_of_ollama_are_found_by_their_manifests(store, ollama, place, name):
    blob = add_to_ollama(ollama, place, kinds=("template", "model", "params"))
    model = store.find(name)
    assert (model.id, model.path, model.num_bytes, model.source) == (name, blob, len(GGUF), "Ollama")
    assert store.list() == [model]


def test_the_latest_of_ollama_needs_no_tag(store, ollama):
    add_to_ollama(ollama, "registry.ollama.ai/library/tiny/latest")
    assert store.find("ollama/tiny").path == store.find("ollama/tiny:latest").path


@pytest.mark.parametrize("how", [{"size": 7}, {"kinds": ("model", "adapter")}, {"kinds": ("template",)}])
def test_what_is_not_one_whole_gguf_is_not_listed(store, ollama, how):
    add_to_ollama(ollama, "registry.ollama.ai/library/tiny/latest", **how)
    assert store.list() == []
    with pytest.raises(ModelNotFound):
        store.find("ollama/tiny")


def test_another_program_s_models_are_not_removed(store, ollama):
    blob = add_to_ollama(ollama, "registry.ollama.ai/library/tiny/latest")
    with pytest.raises(ModelUnfit, match="belongs to Ollama"):
        store.remove("ollama/tiny")
    assert blob.exists()


def test_the_hub_s_older_names_and_variables_are_understood(monkeypatch, tmp_path):
    monkeypatch.setenv("HUGGINGFACE_HUB_CACHE", str(tmp_path / "older"))
    assert Settings().hub_cache == tmp_path / "older"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "newer"))
    assert Settings().hub_cache == tmp_path / "newer"
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.delenv("HUGGINGFACE_HUB_CACHE")
    monkeypatch.setenv("DISK", str(tmp_path))
    monkeypatch.setenv("HF_HOME", "$DISK/hf")
    assert Settings().hub_cache == tmp_path / "hf" / "hub"


@pytest.mark.parametrize(("word", "offline"), [("auto", False), ("0", False), ("", False), ("1", True), ("On", True)])
def test_words_that_the_hub_does_not_know_leave_it_online(monkeypatch, word, offline):
    monkeypatch.setenv("HF_HUB_OFFLINE", word)
    assert Settings().hf_hub_offline is offline


def test_folders_of_other_programs_are_named_by_their_own_means(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings().lm_studio_folders[0] == tmp_path / ".lmstudio" / "models"
    (tmp_path / ".lmstudio-home-pointer").write_text(f"{tmp_path}/elsewhere\n")
    assert Settings().lm_studio_folders[0] == tmp_path / "elsewhere" / "models"
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "theirs"))
    assert Settings().ollama_folders == (tmp_path / "theirs",)
