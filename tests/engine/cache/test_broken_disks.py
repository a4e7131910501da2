"""A disk that does not do what the prefix cache wants costs a cache, never an answer."""

import logging
import shutil

import pytest

from engine import Engine
from engine.sampling.params import SamplingParams
from engine.settings import EngineSettings

PROMPT = tuple(range(5, 60)) * 2
GREEDY = SamplingParams(max_tokens=4, temperature=0)


def settings(folder) -> EngineSettings:
    return EngineSettings(prefix_folder=folder, prefix_bytes=10_000_000, kv_bytes=50_000_000)


@pytest.fixture(scope="module")
def right(tiny_llama):
    return Engine(tiny_llama).generate([PROMPT], GREEDY)


def test_a_folder_that_cannot_be_made_is_one_line(tiny_llama, right, tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        engine = Engine(tiny_llama, settings(tmp_path / "file" / "prefixes"))
        assert [engine.generate([PROMPT], GREEDY) for _ in range(2)] == [right, right]
        engine.close()
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "the folder of the prefix cache cannot be used, nothing is kept on disk"
    ]


def test_blocks_that_cannot_be_written_are_counted_and_are_one_line(tiny_llama, right, tmp_path, caplog):
    folder = tmp_path / "prefixes"
    engine = Engine(tiny_llama, settings(folder))
    shutil.rmtree(folder)
    with caplog.at_level(logging.WARNING):
        assert engine.generate([PROMPT], GREEDY) == right
        engine.close()
    assert engine.stats.num_damaged > 1
    assert len(caplog.records) == 1


def test_what_a_killed_writer_has_left_is_deleted_by_the_next_start(tiny_llama, right, tmp_path):
    first = Engine(tiny_llama, settings(tmp_path))
    first.generate([PROMPT], GREEDY)
    first.close()
    (folder,) = tmp_path.iterdir()
    (folder / ".half.kv.123").write_bytes(b"half")
    second = Engine(tiny_llama, settings(tmp_path))
    assert second.generate([PROMPT], GREEDY) == right
    assert second.stats.cached_tokens > 0
    second.close()
    assert not list(folder.glob(".*"))
