"""What sentence-transformers' files say, and what of it is refused by key and value."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from engine.checkpoint.checkpoint import open_checkpoint
from engine.embedding.embedder import Embedder
from engine.embedding.sentence_settings import SentenceSettings, read_sentence_settings
from engine.errors import CheckpointCorrupt, CheckpointError, CheckpointNotFound, CheckpointUnsupported

BERT = Path(__file__).parents[2] / "engine" / "architectures" / "fixtures" / "bert"
CHAIN = (("models.Transformer", ""), ("models.Pooling", "1_Pooling"))
MEAN = {"pooling_mode_mean_tokens": True}


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(BERT, tmp_path / "bert")


def write(path: Path, content) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def declare(folder: Path, *more, pooling=None, chain=CHAIN) -> None:
    modules = [{"type": f"sentence_transformers.{name}", "path": path} for name, path in (*chain, *more)]
    write(folder / "modules.json", modules)
    write(folder / "1_Pooling" / "config.json", MEAN if pooling is None else pooling)


def read(folder: Path) -> SentenceSettings:
    return read_sentence_settings(open_checkpoint(folder))


def test_without_files_it_is_the_mean_at_length_one(folder):
    assert read(folder) == SentenceSettings(modes=("mean",), normalize=True)


def test_all_files_together(folder):
    declare(folder, ("models.Normalize", "2_Normalize"), pooling={"pooling_mode_cls_token": True})
    write(folder / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": True})
    prompts = {"query": "query: ", "document": "", "other": None}
    write(folder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": "query"})
    assert read(folder) == SentenceSettings(
        declared=True,
        modes=("cls",),
        normalize=True,
        max_length=48,
        lowercase=True,
        prompts={"query": "query: ", "document": "", "other": ""},
        default_prompt="query",
    )
    assert Embedder(folder).info.context_length == 48


def test_newer_names_of_modules_and_pooling(folder):
    chain = (
        ("base.modules.transformer.Transformer", ""),
        ("sentence_transformer.modules.pooling.Pooling", "1_Pooling"),
    )
    declare(folder, chain=chain, pooling={"embedding_dimension": 32, "pooling_mode": "lasttoken"})
    assert read(folder).modes == ("lasttoken",)
    assert read(folder).normalize is False


@pytest.mark.parametrize(
    ("activation", "function"),
    [(None, np.tanh), ("torch.nn.modules.linear.Identity", lambda x: x), ("torch.nn.ReLU", lambda x: np.maximum(x, 0))],
)
def test_layers_over_the_pooled_vector(folder, activation, function):
    generator = np.random.default_rng(1)
    weight, bias = (generator.standard_normal(shape).astype(np.float32) for shape in ((7, 32), (7,)))
    declare(folder, ("models.Dense", "2_Dense"))
    own = {} if activation is None else {"activation_function": activation}
    write(folder / "2_Dense" / "config.json", {"in_features": 32, "out_features": 7, "bias": True, **own})
    arrays = {"linear.weight": mx.array(weight), "linear.bias": mx.array(bias)}
    mx.save_safetensors(str(folder / "2_Dense" / "model.safetensors"), arrays)
    reference = {name: np.array(array) for name, array in mx.load(str(folder / "fixture.safetensors")).items()}
    embedder = Embedder(folder)
    found = embedder.encode([reference["input_ids"][0].tolist()])[0]
    assert np.allclose(found, function(reference["pooled_mean"][0] @ weight.T + bias), atol=1e-3)
    assert embedder.info.embedding_size == 7


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("modules.json", [{"type": "custom_st.Transformer", "path": ""}], "custom_st.Transformer"),
        ("modules.json", [{"type": "sentence_transformers.models.CNN", "path": ""}], "CNN"),
        ("modules.json", [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}], "Transformer"),
        ("modules.json", [], "modules.json"),
        ("modules.json", ["Transformer"], "modules.json type"),
        ("1_Pooling/config.json", {"pooling_mode_magic": True}, "pooling_mode_magic = True"),
        ("1_Pooling/config.json", {"pooling_mode": "magic"}, "pooling_mode = 'magic'"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": "yes"}, "pooling_mode_cls_token = 'yes'"),
        ("sentence_bert_config.json", {"max_seq_length": -1}, "max_seq_length = -1"),
        ("config_sentence_transformers.json", {"prompts": {"query": 3}}, "prompts"),
        ("config_sentence_transformers.json", {"default_prompt_name": "gone"}, "default_prompt_name = 'gone'"),
        ("config_sentence_transformers.json", {"activation_fn": "torch.nn.Softmax"}, "activation_fn"),
        ("config_sentence_transformers.json", {"activation_fn": "os.system"}, "activation_fn"),
    ],
)
def test_what_is_not_implemented_is_refused_by_key_and_value(folder, file, content, words):
    declare(folder)
    write(folder / file, content)
    with pytest.raises(CheckpointUnsupported, match=words):
        read(folder)


@pytest.mark.parametrize(
    ("path", "error"),
    [("..", CheckpointCorrupt), ("/etc", CheckpointCorrupt), ("a/b", CheckpointCorrupt), ("gone", CheckpointNotFound)],
)
def test_a_module_s_folder_lies_inside_of_the_model_s(folder, path, error):
    declare(folder, chain=(CHAIN[0], ("models.Pooling", path)))
    with pytest.raises(error):
        read(folder)


def test_a_module_s_folder_that_links_elsewhere_is_refused(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere / "config.json", MEAN)
    declare(folder, chain=(CHAIN[0], ("models.Pooling", "3_Pooling")))
    (folder / "3_Pooling").symlink_to(elsewhere)
    with pytest.raises(CheckpointCorrupt, match="outside"):
        read(folder)


def test_modules_are_found_in_the_hub_s_cache_where_files_are_links(tmp_path):
    repository = tmp_path / "models--org--bert"
    snapshot, blobs = repository / "snapshots" / "abc", repository / "blobs"
    shutil.copytree(BERT, snapshot)
    blobs.mkdir()
    declare(snapshot, pooling={"pooling_mode_cls_token": True})
    own = snapshot / "1_Pooling" / "config.json"
    own.rename(blobs / "f00d")
    own.symlink_to(blobs / "f00d")
    assert read(snapshot).modes == ("cls",)


def test_a_layer_in_a_pickle_is_refused(folder):
    declare(folder, ("models.Dense", "2_Dense"))
    write(folder / "2_Dense" / "config.json", {"in_features": 32, "out_features": 7})
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointNotFound, match="pickles are not read"):
        read(folder)


def test_a_chain_without_pooling_makes_no_vectors(folder):
    declare(folder, chain=CHAIN[:1])
    with pytest.raises(CheckpointError, match="no Pooling"):
        Embedder(folder)
