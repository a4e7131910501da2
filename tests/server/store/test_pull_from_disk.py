"""Pulling a folder or a GGUF file of this machine into the store, and serving one where it lies."""

import json

import pytest

from server.store.errors import DiskFull, ModelCorrupt, ModelExists, ModelUnfit
from server.store.local_source import LocalSource, local_path
from server.store.pull import pull


def test_folder_is_copied_without_what_is_not_data(store, folder, files):
    (folder / "modeling.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    model = pull(str(folder), store)
    assert model == store.find("my-model")
    copied = {path.relative_to(model.path).as_posix() for path in model.path.rglob("*") if path.is_file()}
    assert copied == {*files, "1_Pooling/config.json", "bramley.json"}
    assert {name: (model.path / name).read_bytes() for name in files} == files


def test_copy_does_not_depend_on_the_original(store, folder, files):
    model = pull(str(folder), store)
    (folder / "config.json").write_text("changed")
    assert (model.path / "config.json").read_bytes() == files["config.json"]


@pytest.mark.parametrize(
    ("name", "model_id"),
    [("My Model (v2).gguf", "My-Model-v2"), ("...x.Q4_0.gguf", "x.Q4_0"), ("ü--a..b.gguf", "a.b"), ("é.gguf", "model")],
)
def test_file_of_any_name_gets_a_valid_one(tmp_path, name, model_id):
    path = tmp_path / name
    path.write_bytes(b"GGUF")
    assert str(LocalSource(path).model_id) == model_id


def test_all_parts_of_a_gguf_are_taken(tmp_path):
    for number in (1, 2):
        (tmp_path / f"my (m)-0000{number}-of-00002.gguf").write_bytes(b"GGUF")
    source = LocalSource(tmp_path / "my (m)-00001-of-00002.gguf")
    assert str(source.model_id) == "my-m"
    assert source.in_place().num_bytes == 8
    assert source.in_place().path.name == "my (m)-00001-of-00002.gguf"


def test_real_gguf_is_copied(store, starter_model):
    model = pull(str(starter_model), store)
    assert model.format == "gguf"
    assert model.path.stat().st_size == starter_model.stat().st_size
    assert store.list() == [model]


def test_truncated_weights_are_not_taken_in(store, folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelCorrupt, match=r"^model\.safetensors is damaged") as failure:
        pull(str(folder), store)
    assert failure.value.exit_code == 3
    assert store.list() == []


@pytest.mark.parametrize("present", [[], ["model-00002-of-00002.safetensors"]])
def test_missing_shard_is_said_by_name(store, folder, present):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    for name in present:
        (folder / name).write_bytes(weights)
    weight_map = {"a": "model-00001-of-00002.safetensors", "weight": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ModelUnfit, match="model-00001-of-00002"):
        pull(str(folder), store)
    assert store.list() == []


def test_links_to_places_outside_are_not_followed(store, folder, tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    (folder / "tokenizer_config.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(ModelUnfit, match=r"tokenizer_config\.json"):
        pull(str(folder), store)


def test_another_model_of_the_same_name_is_not_replaced(store, folder):
    pull(str(folder), store)
    with pytest.raises(ModelExists, match="my-model"):
        pull(str(folder), store)


def test_full_disk_is_refused_before_the_first_byte(store, folder):
    with pytest.raises(DiskFull):
        pull(str(folder), store, free_bytes=lambda _: 100)
    assert not list(store.root.rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["./nothing", "/nowhere/model", "missing.gguf"])
def test_path_to_nothing_is_one_line_without_the_path(store, name):
    with pytest.raises(ModelUnfit, match="does not exist") as failure:
        pull(name, store)
    assert "/" not in str(failure.value)


def test_file_that_is_no_gguf_is_refused(store, tmp_path):
    (tmp_path / "model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelUnfit, match="neither a folder nor"):
        pull(str(tmp_path / "model.bin"), store)


def test_folder_is_served_in_place(folder):
    model = LocalSource(folder).in_place()
    assert (model.id, model.path, model.format) == ("my-model", folder, "safetensors")


@pytest.mark.parametrize("name", ["smollm2-135m", "org/name", "org/name:Q4_0", "a\0b", ""])
def test_names_are_not_taken_for_paths(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert local_path(name) is None


def test_folder_here_goes_before_a_repository_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert local_path("org/name") is None
    (tmp_path / "org" / "name" / "config.json").write_text("{}")
    assert local_path("org/name") == tmp_path / "org" / "name"


def test_folder_that_holds_a_gguf_and_nothing_else_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert local_path("org/name") is None
    (tmp_path / "org" / "name" / "weights.gguf").touch()
    assert local_path("org/name") == tmp_path / "org" / "name"
