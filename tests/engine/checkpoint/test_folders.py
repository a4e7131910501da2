"""What counts as a model folder, and that nothing outside of it is opened."""

import json
import os
import socket
from pathlib import Path

import mlx.core as mx
import pytest

from engine.checkpoint.checkpoint import open_checkpoint
from engine.checkpoint.json_object import parse_object
from engine.checkpoint.load import load_tensors
from engine.errors import CheckpointCorrupt, CheckpointNotFound, CheckpointUnsupported

INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def shards(encode_safetensors):
    """Two shards with one tensor each: a.weight is ones, b.weight is zeros."""
    header = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    return {
        FIRST: encode_safetensors({"a.weight": header}, b"\0\0\x80?" * 2),
        SECOND: encode_safetensors({"b.weight": header}, bytes(8)),
    }


@pytest.fixture
def single(shards):
    return {"model.safetensors": shards[FIRST]}


def index(**weight_map):
    content = {
        "metadata": {"total_size": 16},
        "weight_map": {f"{key}.weight": file for key, file in weight_map.items()},
    }
    return {INDEX: json.dumps(content).encode()}


def test_shards_are_read_as_one(tmp_path, shards, write_folder):
    folder = write_folder(tmp_path, shards | index(a=FIRST, b=SECOND))
    arrays = dict(load_tensors(open_checkpoint(folder)))
    assert {name: array.tolist() for name, array in arrays.items()} == {"a.weight": [1, 1], "b.weight": [0, 0]}


def test_one_file_goes_before_an_index(tmp_path, single, write_folder):
    folder = write_folder(tmp_path, single | index(a="gone.safetensors"))
    assert list(open_checkpoint(folder).tensors) == ["a.weight"]


def test_a_tensor_that_the_index_does_not_list_is_left_out(tmp_path, shards, write_folder):
    folder = write_folder(tmp_path, shards | index(a=FIRST))
    assert list(open_checkpoint(folder).tensors) == ["a.weight"]


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "../../etc/passwd",
        "..",
        ".",
        "",
        "/etc/passwd",
        "/etc/x.safetensors",
        "sub/model.safetensors",
        "./model.safetensors",
        "..\\model.safetensors",
        "C:\\model.safetensors",
        "..safetensors",
        ".hidden.safetensors",
        "a\0.safetensors",
        "a\n.safetensors",
        "\ud800.safetensors",
        "~/model.safetensors",
        f"{'n' * 300}.safetensors",
        "model.bin",
        "config.json",
        7,
        None,
        ["model.safetensors"],
    ],
)
def test_an_index_that_names_anything_but_a_file_of_the_folder_is_refused(name, tmp_path, shards, write_folder):
    (tmp_path / "model.safetensors").write_bytes(shards[FIRST])
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "sub" / "model.safetensors").write_bytes(shards[FIRST])
    folder = write_folder(tmp_path / "model", shards | index(a=name, b=SECOND))
    with pytest.raises(CheckpointCorrupt) as caught:
        open_checkpoint(folder)
    assert str(tmp_path) not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {}}', b'{"weight_map": {"a.weight": 1}}', b"{" * 5000],
)
def test_an_index_without_a_weight_map_is_refused(content, tmp_path, shards, write_folder):
    with pytest.raises(CheckpointCorrupt, match="index"):
        open_checkpoint(write_folder(tmp_path, shards | {INDEX: content}))


def test_a_missing_shard_is_named(tmp_path, shards, write_folder):
    del shards[SECOND]
    with pytest.raises(CheckpointNotFound, match=SECOND):
        open_checkpoint(write_folder(tmp_path, shards | index(a=FIRST, b=SECOND)))


def test_a_tensor_that_is_not_where_the_index_says_is_named(tmp_path, shards, write_folder):
    parts = {"first.safetensors": shards[FIRST], "second.safetensors": shards[SECOND]}
    with pytest.raises(CheckpointCorrupt, match=r"b\.weight"):
        open_checkpoint(write_folder(tmp_path, parts | index(a="first.safetensors", b="first.safetensors")))


def test_shards_without_an_index_are_read_as_one(tmp_path, shards, write_folder):
    assert sorted(open_checkpoint(write_folder(tmp_path, shards)).tensors) == ["a.weight", "b.weight"]


@pytest.mark.parametrize(
    "places",
    [
        {"a": "model-00001-of-00003.safetensors", "b": "model-00003-of-00003.safetensors"},
        {"a": FIRST, "b": FIRST},
        {"a": FIRST, "gone": SECOND},
    ],
)
def test_an_index_that_is_left_over_beside_whole_shards_is_passed_over(places, tmp_path, shards, write_folder):
    folder = write_folder(tmp_path, shards | index(**places))
    assert sorted(open_checkpoint(folder).tensors) == ["a.weight", "b.weight"]


def test_a_tensor_in_two_shards_without_an_index_is_damage(tmp_path, shards, write_folder):
    with pytest.raises(CheckpointCorrupt, match=r"a\.weight.*also in another part"):
        open_checkpoint(write_folder(tmp_path, {FIRST: shards[FIRST], SECOND: shards[FIRST]}))


def test_a_shard_that_is_missing_without_an_index_is_named(tmp_path, shards, write_folder):
    with pytest.raises(CheckpointNotFound, match=f"{SECOND}: it is missing"):
        open_checkpoint(write_folder(tmp_path, {FIRST: shards[FIRST]}))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "generation_config.json"])
def test_a_link_out_of_the_folder_is_refused(name, tmp_path, single, write_folder):
    outside = write_folder(tmp_path / "outside", single | {"generation_config.json": b"{}"})
    folder = write_folder(tmp_path / "model", single)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside / name)
    with pytest.raises(CheckpointCorrupt, match=f"{name} is damaged: it is a link to a place outside"):
        open_checkpoint(folder)


def test_a_link_inside_the_folder_is_followed(tmp_path, single, write_folder):
    folder = write_folder(tmp_path, {"weights.safetensors": single["model.safetensors"]})
    (folder / "model.safetensors").symlink_to("weights.safetensors")
    assert list(open_checkpoint(folder).tensors) == ["a.weight"]


def test_a_folder_that_is_itself_a_link_is_followed(tmp_path, single, write_folder):
    write_folder(tmp_path / "model", single)
    (tmp_path / "alias").symlink_to("model")
    assert list(open_checkpoint(tmp_path / "alias").tensors) == ["a.weight"]


def test_a_link_to_itself_is_refused(tmp_path, single, write_folder):
    folder = write_folder(tmp_path, single)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("model.safetensors")
    with pytest.raises((CheckpointCorrupt, CheckpointNotFound), match=r"model\.safetensors"):
        open_checkpoint(folder)


def cached(cache: Path, content: bytes, *, shared: bool = False) -> Path:
    """A snapshot as huggingface_hub lays it out; shared: its blob is a link into the cache's common blobs."""
    repository = cache / "models--someone--tiny"
    snapshot = repository / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    blob = repository / "blobs" / "feed"
    if shared:
        name = "ab" * 32
        (cache / "blobs" / "ab").mkdir(parents=True)
        (cache / "blobs" / "ab" / name).write_bytes(content)
        blob.symlink_to(f"../../blobs/ab/{name}")
    else:
        blob.write_bytes(content)
    (repository / "blobs" / "cafe").write_text('{"model_type": "llama"}')
    (snapshot / "model.safetensors").symlink_to("../../blobs/feed")
    (snapshot / "config.json").symlink_to("../../blobs/cafe")
    return snapshot


@pytest.mark.parametrize("shared", [False, True])
def test_a_snapshot_in_the_hugging_face_cache_is_opened(shared, tmp_path, single):
    snapshot = cached(tmp_path / "hub", single["model.safetensors"], shared=shared)
    assert [array.tolist() for _, array in load_tensors(open_checkpoint(snapshot))] == [[1, 1]]


def test_a_snapshot_that_is_not_whole_is_not_found(tmp_path, single):
    snapshot = cached(tmp_path / "hub", single["model.safetensors"])
    (snapshot.parent.parent / "blobs" / "feed").unlink()
    with pytest.raises(CheckpointNotFound, match=r"model\.safetensors"):
        open_checkpoint(snapshot)


@pytest.mark.parametrize("target", ["../../../secret", "../../../models--else--x/blobs/feed", "../../refs/main"])
def test_a_snapshot_may_link_only_to_blobs(target, tmp_path, single):
    snapshot = cached(tmp_path / "hub", single["model.safetensors"])
    place = snapshot / target
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(single["model.safetensors"])
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(target)
    with pytest.raises(CheckpointCorrupt, match="outside"):
        open_checkpoint(snapshot)


def test_only_the_hugging_face_cache_may_link_to_blobs(tmp_path, single):
    snapshot = cached(tmp_path / "hub", single["model.safetensors"])
    elsewhere = tmp_path / "hub" / "someone"
    snapshot.parent.parent.rename(elsewhere)
    with pytest.raises(CheckpointCorrupt, match="outside"):
        open_checkpoint(elsewhere / "snapshots" / "0123abcd")


def test_a_blob_that_was_moved_to_another_disk_is_followed(tmp_path, single):
    """A repository's files cannot make one: only its owner puts links among the blobs."""
    snapshot = cached(tmp_path / "hub", single["model.safetensors"])
    (tmp_path / "moved").write_bytes(single["model.safetensors"])
    blob = snapshot.parent.parent / "blobs" / "feed"
    blob.unlink()
    blob.symlink_to(tmp_path / "moved")
    assert list(open_checkpoint(snapshot).tensors) == ["a.weight"]


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path, single, write_folder):
    folder = write_folder(tmp_path, single)
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(CheckpointCorrupt, match="not a regular file"):
        open_checkpoint(folder)


def test_a_socket_or_a_folder_in_place_of_a_file_is_refused(tmp_path, single, write_folder, monkeypatch):
    folder = write_folder(tmp_path, single)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    with pytest.raises(CheckpointCorrupt, match=r"model\.safetensors"):
        open_checkpoint(folder)
    (folder / "model.safetensors").rmdir()
    monkeypatch.chdir(folder)  # a socket's address must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("model.safetensors")
        with pytest.raises(CheckpointCorrupt, match=r"model\.safetensors"):
            open_checkpoint(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b'"llama"',
        b"{}",
        b'{"model_type": null}',
        b'{"model_type": 1}',
        b'{"model_type": ""}',
        b'{"model_type": ["llama"]}',
        b'{"model_type": "llama", "model_type": "bert"}',
        b'{"model_type": "llama"',
        b'{"model_type": "\xff"}',
        b'{"model_type": "' + b"x" * 1000 + b'"}',
        b'{"model_type": "llama", "x": ' + b"[" * 500_000,
        b'{"model_type": "llama", "x": ' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"model_type": "llama", "x": ' + b"9" * 10_000 + b"}",
    ],
    ids=range(16),
)
def test_a_config_that_is_no_configuration_is_refused(content, tmp_path, single, write_folder):
    with pytest.raises(CheckpointCorrupt, match=r"config\.json"):
        open_checkpoint(write_folder(tmp_path, single | {"config.json": content}))


def test_a_config_above_the_limit_is_refused_before_it_is_parsed(tmp_path, single, write_folder):
    with pytest.raises(CheckpointUnsupported, match=r"config\.json .*more than 8388608 bytes"):
        open_checkpoint(write_folder(tmp_path, single, {"x": "x" * (9 << 20)}))


def test_a_folder_without_config_is_not_found(tmp_path, single, write_folder):
    folder = write_folder(tmp_path, single)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointNotFound, match=r"config\.json"):
        open_checkpoint(folder)


def test_generation_config_is_optional(tmp_path, single, write_folder):
    assert open_checkpoint(write_folder(tmp_path, single)).generation_config == {}
    write_folder(tmp_path, {"generation_config.json": b'{"eos_token_id": [1, 2]}'})
    assert open_checkpoint(tmp_path).generation_config == {"eos_token_id": [1, 2]}


def test_code_in_a_model_folder_stays_data(tmp_path, single, write_folder):
    canary = tmp_path / "canary"
    code = f"open({str(canary)!r}, 'w')".encode()
    config = {"auto_map": {"AutoModel": "modeling.Model"}, "model_file": "modeling.py"}
    dict(load_tensors(open_checkpoint(write_folder(tmp_path, single | {"modeling.py": code}, config))))
    assert not canary.exists()


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "consolidated.00.pth"]
)
def test_pickled_weights_are_refused_with_the_reason_and_the_way_out(name, tmp_path, write_folder):
    with pytest.raises(CheckpointUnsupported, match=r"pickle.*safetensors") as caught:
        open_checkpoint(write_folder(tmp_path, {name: b"\x80\x04."}))
    assert caught.value.value == name


def test_a_folder_with_one_gguf_is_that_gguf(tmp_path, gguf):
    (tmp_path / "tiny.gguf").write_bytes(gguf().encode())
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.format, checkpoint.path, len(checkpoint.tensors)) == ("gguf", tmp_path, 20)


def test_a_gguf_in_a_folder_may_not_be_a_link_out_of_it(tmp_path, gguf):
    (tmp_path / "tiny.gguf").write_bytes(gguf().encode())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tiny.gguf").symlink_to("../tiny.gguf")
    with pytest.raises(CheckpointCorrupt, match="outside"):
        open_checkpoint(tmp_path / "model")


def test_a_folder_with_two_ggufs_asks_for_one(tmp_path, gguf):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(gguf().encode())
    with pytest.raises(CheckpointUnsupported, match="2 GGUF files"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["missing", "missing.gguf", "a\0b", "x" * 5000])
def test_a_place_without_a_model_is_not_found(name, tmp_path):
    with pytest.raises(CheckpointNotFound) as caught:
        open_checkpoint(tmp_path / name)
    assert str(tmp_path) not in str(caught.value)


def test_an_empty_folder_is_not_found(tmp_path):
    with pytest.raises(CheckpointNotFound, match=r"model\.safetensors"):
        open_checkpoint(tmp_path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointUnsupported, match=r"\.gguf"):
        open_checkpoint(tmp_path / "model.onnx")


def test_num_bytes_is_the_sum_of_the_tensors(tmp_path, shards, write_folder):
    checkpoint = open_checkpoint(write_folder(tmp_path, shards | index(a=FIRST, b=SECOND)))
    assert checkpoint.num_bytes == sum(array.nbytes for _, array in load_tensors(checkpoint)) == 16
    assert isinstance(dict(load_tensors(checkpoint))["a.weight"], mx.array)


def test_damaged_json_says_once_where_it_is_damaged():
    with pytest.raises(CheckpointCorrupt) as failure:
        parse_object(b'{"a": "\n"}', "config.json")
    assert "(Invalid control character at character 7)" in str(failure.value)
