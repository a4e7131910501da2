"""Models in the user's Hugging Face cache: found when they are whole, without a network, and never written."""

import fcntl
import shutil

import pytest

from server.store.catalog import Catalog
from server.store.errors import ModelNotFound
from server.store.hub_cache import SOURCE
from server.store.pull import pull
from server.store.store import Store

COMMIT = "a" * 40
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


class Cache:
    """A repository in the cache's layout: blobs, and a snapshot of links to them."""

    def __init__(self, root):
        self.root = root
        self.repository = root / "models--org--name"
        self.snapshot = self.repository / "snapshots" / COMMIT
        self.blobs = self.repository / "blobs"
        self.snapshot.mkdir(parents=True)
        self.blobs.mkdir()
        (self.repository / "refs").mkdir()
        (self.repository / "refs" / "main").write_text(COMMIT)

    def add(self, name, content):
        blob = self.blobs / f"{abs(hash(name)):x}"
        blob.write_bytes(content)
        (self.snapshot / name).symlink_to(f"../../blobs/{blob.name}")
        return blob


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "hub")


@pytest.fixture
def sharded(cache):
    cache.add("config.json", b"{}")
    cache.add(
        "model.safetensors.index.json", b'{"weight_map": {"a": "%s", "b": "%s"}}' % tuple(map(str.encode, SHARDS))
    )
    for shard in SHARDS:
        cache.add(shard, b"1234")
    return cache


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "models", tmp_path / "hub", catalog=Catalog())


def assert_absent(store):
    assert store.list() == []
    with pytest.raises(ModelNotFound):
        store.find("org/name")


def test_whole_snapshot_is_found_by_its_repository(sharded, store):
    model = store.find("org/name")
    assert (model.path, model.format, model.source) == (sharded.snapshot, "safetensors", SOURCE)
    assert store.list() == [model]
    assert pull("org/name", store) == model
    assert not store.root.exists()


def test_shards_without_their_index_are_whole(sharded, store):
    (sharded.snapshot / "model.safetensors.index.json").unlink()
    assert store.find("org/name").path == sharded.snapshot


@pytest.mark.parametrize("name", ["config.json", *SHARDS])
def test_snapshot_that_lacks_a_file_is_not_found(sharded, store, name):
    (sharded.snapshot / name).unlink()
    assert_absent(store)


def test_link_to_a_blob_that_is_gone_is_not_whole(sharded, store):
    (sharded.snapshot / SHARDS[0]).resolve().unlink()
    assert_absent(store)


def test_blob_on_its_way_makes_the_snapshot_incomplete(sharded, store):
    (sharded.blobs / "0123abcd.9f8e7d6c.incomplete").write_bytes(b"")
    locks = sharded.root / ".locks" / sharded.repository.name
    locks.mkdir(parents=True)
    with (locks / "0123abcd.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert_absent(store)
    assert store.find("org/name").path == sharded.snapshot


def test_leftovers_of_downloads_do_not_matter(sharded, store):
    blob = (sharded.snapshot / SHARDS[0]).resolve()
    (sharded.blobs / f"{blob.name}.9f8e7d6c.incomplete").write_bytes(b"")
    (sharded.blobs / ("f" * 64 + ".incomplete")).write_bytes(b"x")
    assert store.find("org/name").path == sharded.snapshot


def test_snapshot_that_main_means_is_taken(sharded, store):
    (sharded.repository / "snapshots" / ("b" * 40)).mkdir()
    assert store.find("org/name").path == sharded.snapshot
    shutil.copytree(sharded.snapshot, sharded.repository / "snapshots" / ("b" * 40), dirs_exist_ok=True)
    (sharded.repository / "refs" / "main").write_text("b" * 40)
    assert store.find("org/name").path.name == "b" * 40


def test_an_older_whole_snapshot_is_taken_where_the_newest_is_not_whole(sharded, store):
    (sharded.repository / "snapshots" / ("b" * 40)).mkdir()
    (sharded.repository / "refs" / "main").write_text("b" * 40)
    assert store.find("org/name").path == sharded.snapshot
    (sharded.repository / "refs" / "main").unlink()
    assert store.find("org/name").path == sharded.snapshot


@pytest.mark.parametrize("reference", ["../../../../outside", "", "main", "a" * 39, "A" * 40, "a" * 41])
def test_strange_reference_is_no_way_out(sharded, store, reference):
    (sharded.repository / "refs" / "main").write_text(reference)
    assert store.find("org/name").path == sharded.snapshot  # the only snapshot there is


def test_link_out_of_the_cache_is_not_followed(sharded, store, tmp_path):
    (tmp_path / "secret").write_text("{}")
    (sharded.snapshot / "config.json").unlink()
    (sharded.snapshot / "config.json").symlink_to(tmp_path / "secret")
    assert_absent(store)


def test_repository_folder_of_blobs_and_blobs_may_lie_on_another_disk(sharded, store, tmp_path):
    blob = (sharded.snapshot / SHARDS[0]).resolve()
    blob.rename(tmp_path / "one blob")
    blob.symlink_to(tmp_path / "one blob")
    assert store.find("org/name") is not None
    sharded.blobs.rename(tmp_path / "blobs elsewhere")
    sharded.blobs.symlink_to(tmp_path / "blobs elsewhere")
    assert store.find("org/name") is not None
    (tmp_path / "disk").mkdir()
    sharded.repository.rename(tmp_path / "disk" / sharded.repository.name)
    sharded.repository.symlink_to(tmp_path / "disk" / sharded.repository.name)
    assert store.list() == [store.find("org/name")]


def test_only_gguf_of_a_repository_is_served_as_a_file(cache, store):
    cache.add("m-Q4_0.gguf", b"GGUF")
    model = store.find("org/name")
    assert (model.path.name, model.format, model.num_bytes) == ("m-Q4_0.gguf", "gguf", 4)


def test_one_gguf_of_several_needs_its_name(cache, store):
    for kind in ("Q4_0", "Q8_0", "UD-Q4_0", "Q6_K", "Q6_K_L", "IQ4_XS"):
        cache.add(f"m-{kind}.gguf", b"GGUF")
    cache.add("mmproj-m-f16.gguf", b"GGUF")
    with pytest.raises(ModelNotFound):
        store.find("org/name")
    for kind in ("Q8_0", "q8_0", "Q4_0", "UD-Q4_0", "Q6_K", "Q6_K_L"):
        assert store.find(f"org/name:{kind}").path.name.lower() == f"m-{kind}.gguf".lower()
    with pytest.raises(ModelNotFound):
        store.find("org/name:Q")
    ids = {f"org/name:{kind}" for kind in ("Q4_0", "Q8_0", "UD-Q4_0", "Q6_K", "Q6_K_L", "IQ4_XS")}
    assert {model.id for model in store.list()} == ids


def test_projector_of_images_is_no_second_model(cache, store):
    cache.add("m-Q4_0.gguf", b"GGUF")
    cache.add("mmproj-m-f16.gguf", b"GGUF")
    assert store.find("org/name").path.name == "m-Q4_0.gguf"


def test_parts_of_a_gguf_are_one_model_in_a_folder_too(cache, store):
    for number in (1, 2):
        name = f"m-Q8_0-0000{number}-of-00002.gguf"
        blob = cache.add(name, b"GGUF")
        (cache.snapshot / "Q8_0").mkdir(exist_ok=True)
        (cache.snapshot / name).unlink()
        (cache.snapshot / "Q8_0" / name).symlink_to(f"../../../blobs/{blob.name}")
    model = store.find("org/name:Q8_0")
    assert (model.path.name, model.num_bytes) == ("m-Q8_0-00001-of-00002.gguf", 8)
    assert store.list()[0].id == "org/name"
    (cache.snapshot / "Q8_0" / name).unlink()
    assert_absent(store)


def test_repository_of_the_hubs_early_days_has_no_organisation(sharded, store):
    sharded.repository.rename(sharded.root / "models--gpt2")
    assert store.list() == [store.find("gpt2")]


def test_pickles_are_no_model(cache, store):
    cache.add("config.json", b"{}")
    cache.add("pytorch_model.bin", b"pickle")
    assert_absent(store)


def test_stores_own_copy_goes_before_the_cached_one(sharded, store, folder):
    moved = folder.with_name("org--name")
    folder.rename(moved)
    pull(str(moved), store)
    assert [model.source == SOURCE for model in store.list()] == [False, True]


def test_cache_that_is_not_there_is_empty(tmp_path):
    assert Store(tmp_path / "models", tmp_path / "nothing", catalog=Catalog()).list() == []
