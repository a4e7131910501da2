"""Pulls that are killed at random points, one after the other."""

import random

MEGABYTE = 1 << 20


def test_a_pull_killed_again_and_again_is_never_listed_and_goes_on_where_it_stopped(bramley, hub):
    rng = random.Random(8)
    size = 8 * MEGABYTE
    hub.files = {"config.json": b"{}", "model.safetensors": rng.randbytes(size), "tokenizer.json": b"{}"}
    hub.chunk_bytes, hub.pause = 64 << 10, 0.004
    for _ in range(8):
        process = bramley.start("pull", "org/tiny")
        kill_at = hub.body_bytes + rng.randrange(size // 8)
        while hub.body_bytes < kill_at and process.poll() is None:
            pass
        assert process.poll() is None, process.communicate()
        process.kill()
        process.communicate()
        assert bramley.ids() == []
    sent_before = hub.body_bytes
    assert bramley.run("pull", "org/tiny")[0] == 0
    assert bramley.ids() == ["org/tiny"]
    stored = bramley.models / "org--tiny" / "model.safetensors"
    assert stored.read_bytes() == hub.files["model.safetensors"]
    assert hub.body_bytes - sent_before < size
    assert hub.body_bytes < 2 * size
