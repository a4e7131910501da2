"""A GGUF in several files is the same model as in one."""

from dataclasses import replace

import numpy as np
import pytest

from engine.checkpoint.checkpoint import open_checkpoint
from engine.checkpoint.load import load_tensors
from engine.errors import CheckpointCorrupt, CheckpointNotFound

U16, I32 = 2, 5


@pytest.fixture
def split(tmp_path, gguf):
    """Writes a tiny llama in three parts, the first with the metadata alone; returns the folder and the whole file."""
    whole = gguf()
    halves = [[], whole.tensors[:5], whole.tensors[5:]]
    folder = tmp_path / "parts"
    folder.mkdir()
    for number, tensors in enumerate(halves):
        keys = {
            "split.no": (U16, number),
            "split.count": (U16, 3),
            "split.tensors.count": (I32, len(whole.tensors)),
        }
        metadata = keys | (whole.metadata if number == 0 else {})
        part = replace(whole, metadata=metadata, tensors=tensors)
        (folder / f"m-Q4_0-{number + 1:05d}-of-00003.gguf").write_bytes(part.encode())
    (tmp_path / "whole.gguf").write_bytes(whole.encode())
    return folder, tmp_path / "whole.gguf"


def arrays(path):
    return {name: np.array(array) for name, array in load_tensors(open_checkpoint(path))}


@pytest.mark.parametrize("name", ["", "m-Q4_0-00001-of-00003.gguf", "m-Q4_0-00002-of-00003.gguf"])
def test_parts_are_read_as_one_file(split, name):
    folder, whole = split
    found, expected = open_checkpoint(folder / name), open_checkpoint(whole)
    assert (found.config, sorted(found.tensors)) == (expected.config, sorted(expected.tensors))
    for key, array in arrays(whole).items():
        np.testing.assert_array_equal(arrays(folder / name)[key], array)


def test_a_projector_of_images_beside_a_model_is_passed_over(split):
    folder, whole = split
    (folder / "mmproj-m-f16.gguf").write_bytes(b"GGUF")
    assert open_checkpoint(folder).config == open_checkpoint(whole).config


def test_a_part_that_is_missing_is_named(split):
    (split[0] / "m-Q4_0-00003-of-00003.gguf").unlink()
    with pytest.raises(CheckpointNotFound, match="m-Q4_0-00003-of-00003"):
        open_checkpoint(split[0] / "m-Q4_0-00001-of-00003.gguf")


def test_a_part_under_another_name_is_not_guessed_at(split):
    (split[0] / "m-Q4_0-00001-of-00003.gguf").rename(split[0] / "m.gguf")
    with pytest.raises(CheckpointNotFound, match="one of 3 parts"):
        open_checkpoint(split[0] / "m.gguf")


def test_a_part_twice_is_damage(split):
    folder = split[0]
    first = (folder / "m-Q4_0-00002-of-00003.gguf").read_bytes()
    (folder / "m-Q4_0-00003-of-00003.gguf").write_bytes(first)
    with pytest.raises(CheckpointCorrupt, match="part 3 of 3"):
        open_checkpoint(folder)
