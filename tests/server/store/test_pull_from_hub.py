"""Pulling from a Hugging Face repository, against a stub hub that fails in every way a real one does."""

import json
import subprocess
import sys
import time

import pytest
from huggingface_hub import snapshot_download

MEGABYTE = 1 << 20


def only_error(errors):
    """The failure's one line; the others report progress."""
    lines = [line for line in errors.splitlines() if line.startswith("bramley: ")]
    assert len(lines) == 1, errors
    assert "Traceback" not in errors
    return lines[0]


def test_pulled_repository_is_listed_with_its_files_and_hashes(bramley, hub):
    code, output, _ = bramley.run("pull", "org/tiny")
    assert code == 0
    assert "org/tiny is here" in output
    model = bramley.store.find("org/tiny")
    assert model.path.parent == bramley.models
    assert {path.name for path in model.path.iterdir()} == {*hub.files, "bramley.json"}
    assert {name: (model.path / name).read_bytes() for name in hub.files} == hub.files
    assert model.num_bytes == sum(map(len, hub.files.values()))
    assert not list((bramley.models / ".partial").glob("*/"))


def test_only_data_files_are_asked_for(bramley, hub):
    wanted = sorted(hub.files)
    for name in (
        "pytorch_model.bin",
        "modeling.py",
        "weights.pt",
        "onnx/model.onnx",
        "README.md",
        "logo.png",
        "a.gguf",
    ):
        hub.files[name] = b"not wanted"
    assert bramley.run("pull", "org/tiny")[0] == 0
    assert sorted(hub.resolved()) == wanted


def test_names_that_lead_out_of_the_folder_are_never_written(bramley, hub, tmp_path):
    for name in ("../../evil.json", "/evil.json", "1_Pooling/../../evil.json", "a\\..\\evil.json", "..%2fevil.json"):
        hub.files[name] = b"{}"
    assert bramley.run("pull", "org/tiny")[0] == 0
    assert not list(tmp_path.rglob("*evil*"))
    assert all("evil" not in name for name in hub.resolved())


@pytest.mark.parametrize("kill_after", [0, 700_000, 3_900_000])
def test_killed_download_is_not_listed_and_goes_on_where_it_stopped(bramley, hub, kill_after):
    hub.files = {"config.json": b"{}", "model.safetensors": bytes(4 * MEGABYTE)}
    hub.chunk_bytes, hub.pause = 64 << 10, 0.004
    process = bramley.start("pull", "org/tiny")
    while hub.body_bytes <= kill_after:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert bramley.ids() == []
    parts = list(bramley.models.rglob("model.safetensors*"))
    have = parts[0].stat().st_size if parts else 0
    assert have >= kill_after - MEGABYTE
    del hub.requests[:]
    assert bramley.run("pull", "org/tiny")[0] == 0
    ranges = [headers["range"] for path, headers in hub.requests if path.endswith("model.safetensors")]
    assert ranges == [f"bytes={have}-"]
    assert bramley.ids() == ["org/tiny"]


def test_truncated_body_is_continued_within_the_pull(bramley, hub):
    hub.files["model.safetensors"] = bytes(range(256)) * 4096
    hub.faults["model.safetensors"] = [{"cut": 300_000}, {"cut": 200_000}]
    assert bramley.run("pull", "org/tiny")[0] == 0
    ranges = [headers["range"] for path, headers in hub.requests if path.endswith("model.safetensors")]
    assert ranges == ["bytes=0-", "bytes=300000-", "bytes=500000-"]


def test_server_without_ranges_starts_the_file_anew(bramley, hub):
    hub.files["model.safetensors"] = bytes(range(256)) * 4096
    hub.faults["model.safetensors"] = [{"cut": 300_000}, {"no_range": True}]
    assert bramley.run("pull", "org/tiny")[0] == 0
    assert bramley.ids() == ["org/tiny"]


@pytest.mark.parametrize(
    ("path", "fault", "code", "words"),
    [
        ("tiny", {"status": 401}, 1, "wants another: `hf auth login` (HTTP 401)"),
        ("tiny", {"status": 404, "headers": {"X-Error-Code": "RepoNotFound"}}, 1, "no org/tiny, or it is private"),
        ("tiny", {"status": 403, "headers": {"X-Error-Code": "GatedRepo"}}, 1, "gated"),
        ("tiny", {"status": 403}, 1, "forbidden (HTTP 403)"),
        ("tiny", {"status": 429, "for_ever": True}, 1, "too many requests, try again later (HTTP 429)"),
        ("tiny", {"html": True}, 1, "no list of files"),
        ("model.safetensors", {"status": 500, "for_ever": True}, 1, "failing (HTTP 500)"),
        ("model.safetensors", {"status": 404}, 1, "(HTTP 404)"),
        ("model.safetensors", {"extra": b"x" * 1000}, 1, "longer than it says"),
    ],
)
def test_failing_hub_is_one_line(bramley, hub, path, fault, code, words):
    hub.faults[path] = [fault]
    result, _, errors = bramley.run("pull", "org/tiny")
    assert result == code
    assert words in only_error(errors)
    assert bramley.ids() == []


def test_hub_that_fails_for_a_moment_is_asked_again(bramley, hub):
    hub.faults["tiny"] = [{"status": 429, "headers": {"Retry-After": "1"}}]
    hub.faults["model.safetensors"] = [{"status": 503}]
    started = time.monotonic()
    assert bramley.run("pull", "org/tiny")[0] == 0
    assert time.monotonic() - started >= 1.5  # a second that was asked for, and the first pause of our own


def test_unreachable_hub_is_one_line(bramley, hub):
    code, _, errors = bramley.run("pull", "org/tiny", HF_ENDPOINT="http://127.0.0.1:9")
    assert code == 1
    assert "could not be reached" in only_error(errors)


def test_offline_mode_asks_nobody(bramley, hub):
    code, _, errors = bramley.run("pull", "org/tiny", HF_HUB_OFFLINE="1")
    assert code == 1
    assert "HF_HUB_OFFLINE" in only_error(errors)
    assert hub.requests == []


def test_token_goes_to_the_hub_and_to_no_other_host(bramley, hub, other_host):
    target = f"{other_host.url}/org/tiny/resolve/0123456789abcdef0123456789abcdef01234567/model.safetensors"
    hub.faults["model.safetensors"] = [{"status": 302, "headers": {"Location": target}}]
    assert bramley.run("pull", "org/tiny")[0] == 0
    assert all(headers.get("authorization") == "Bearer hf_secret" for _, headers in hub.requests)
    assert other_host.resolved() == ["model.safetensors"]
    assert all("hf_secret" not in str(headers) for _, headers in other_host.requests)


def test_wrong_content_is_corrupt_and_the_next_pull_repairs_it(bramley, hub):
    hub.wrong_hashes.add("model.safetensors")
    code, _, errors = bramley.run("pull", "org/tiny")
    assert code == 3
    assert "model.safetensors is damaged" in only_error(errors)
    assert bramley.ids() == []
    hub.wrong_hashes.clear()
    del hub.requests[:]
    assert bramley.run("pull", "org/tiny")[0] == 0
    assert hub.resolved() == ["model.safetensors"]


def test_file_without_a_large_hash_is_checked_too(bramley, hub):
    listing = hub.listing()
    good = json.dumps(listing).replace(listing["siblings"][0]["blobId"], "f" * 40)
    hub.listing = lambda: json.loads(good)
    code, _, errors = bramley.run("pull", "org/tiny")
    assert code == 3
    assert "config.json is damaged" in only_error(errors)


def test_full_disk_is_refused_before_the_first_byte(bramley, hub):
    hub.files["model.safetensors"] = bytes(3 * MEGABYTE)
    script = (
        "import sys; from pathlib import Path\n"
        "from server.store.pull import pull; from server.store.store import Store\n"
        "try: pull('org/tiny', Store(Path(sys.argv[1])), free_bytes=lambda folder: 2_000_000)\n"
        "except Exception as error: print(type(error).__name__, error.need_bytes, error.have_bytes, error)"
    )
    output = subprocess.run(
        [sys.executable, "-c", script, bramley.models],
        env={**bramley.environment, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert output.startswith("DiskFull ")
    assert "2000000" in output
    assert "2.0 MB are free" in output
    assert hub.resolved() == []


def test_four_pulls_at_once_fetch_each_file_once(bramley, hub):
    hub.files["model.safetensors"] = bytes(2 * MEGABYTE)
    hub.chunk_bytes, hub.pause = 64 << 10, 0.03
    processes = [bramley.start("pull", "org/tiny") for _ in range(4)]
    results = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    assert [code for _, _, code in results] == [0, 0, 0, 0]
    assert sorted(hub.resolved()) == sorted(hub.files)
    assert sum("waiting for another process" in errors for _, errors, _ in results) == 3


def test_one_gguf_of_several_is_named_after_a_colon(bramley, hub):
    hub.files = {"m-Q4_0.gguf": b"GGUF four", "m-Q8_0.gguf": b"GGUF eight", "README.md": b""}
    code, _, errors = bramley.run("pull", "org/tiny")
    assert code == 1
    assert "m-Q4_0.gguf, m-Q8_0.gguf" in only_error(errors)
    assert bramley.run("pull", "org/tiny:q8_0")[0] == 0
    model = bramley.store.find("org/tiny:q8_0")
    assert (model.path.name, model.format) == ("m-Q8_0.gguf", "gguf")
    assert hub.resolved() == ["m-Q8_0.gguf"]


def test_repository_without_weights_is_refused(bramley, hub):
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    code, _, errors = bramley.run("pull", "org/tiny")
    assert code == 1
    assert "no weights that can be served" in only_error(errors)
    assert hub.resolved() == []


def test_repository_that_lacks_a_shard_is_refused(bramley, hub):
    weight_map = {"a": "m-00001-of-00002.safetensors", "b": "gone.safetensors"}
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    hub.files["m-00001-of-00002.safetensors"] = hub.files.pop("model.safetensors")
    code, _, errors = bramley.run("pull", "org/tiny")
    assert code == 1
    assert "lacks gone.safetensors" in only_error(errors)
    assert bramley.ids() == []


def test_model_that_is_here_is_not_fetched_again(bramley, hub):
    assert bramley.run("pull", "org/tiny")[0] == 0
    del hub.requests[:]
    assert bramley.run("pull", "org/tiny")[0] == 0
    assert hub.requests == []


def test_what_huggingface_hub_downloaded_is_served_from_its_cache(bramley, hub):
    snapshot_download("org/tiny", endpoint=hub.url, cache_dir=bramley.hub_home / "hub", token=False)
    del hub.requests[:]
    code, output, _ = bramley.run("ls", "--json", HF_HUB_OFFLINE="1")
    assert code == 0
    (row,) = json.loads(output)
    assert (row["id"], row["source"]) == ("org/tiny", "Hugging Face cache")
    assert bramley.run("pull", "org/tiny")[0] == 0
    assert hub.requests == []
    assert not list(bramley.models.glob("org*"))
