"""Text models inside of models that see and hear: their own configuration, their own names, and what is left out."""

from pathlib import Path

from engine.checkpoint.tensors import TensorEntry
from engine.checkpoint.wrapper import text_model, text_name


def entries(*names: str) -> dict[str, TensorEntry]:
    return {name: TensorEntry(name, "F32", (1,), Path("model.safetensors"), 0, 4) for name in names}


def test_every_spelling_of_the_prefix_is_one_name():
    for name in ("model.language_model.norm.weight", "language_model.model.norm.weight", "language_model.norm.weight"):
        assert text_name(name) == "model.norm.weight"
    assert text_name("language_model.lm_head.weight") == "lm_head.weight"
    assert text_name("model.layers.0.mlp.up_proj.weight") == "model.layers.0.mlp.up_proj.weight"


def test_towers_and_heads_of_several_tokens_are_left_out_and_counted():
    tensors = entries(
        "model.language_model.norm.weight",
        "model.visual.patch.weight",
        "vision_tower.a",
        "audio_tower.b",
        "mtp.fc.weight",
    )
    text = text_model({"model_type": "w", "text_config": {"model_type": "t"}}, tensors)
    assert list(text.tensors) == ["model.norm.weight"]
    assert text.tensors["model.norm.weight"].name == "model.norm.weight"
    assert text.left_out == {"vision": 2, "audio": 1, "multi-token prediction": 1}


def test_layers_behind_the_last_are_left_out_where_the_configuration_has_them():
    tensors = entries("model.layers.1.mlp.gate.weight", "model.layers.2.mlp.gate.weight")
    config = {"model_type": "deepseek_v3", "num_hidden_layers": 2, "num_nextn_predict_layers": 1}
    text = text_model(config, tensors)
    assert list(text.tensors) == ["model.layers.1.mlp.gate.weight"]
    assert text.left_out == {"multi-token prediction": 1}
    assert len(text_model(config | {"num_nextn_predict_layers": 0}, tensors).tensors) == 2


def test_settings_of_the_whole_model_hold_for_its_text_model():
    config = {
        "model_type": "mistral3",
        "tie_word_embeddings": False,
        "eos_token_id": [1, 2],
        "quantization": {"bits": 4, "language_model.model.layers.0.mlp.up_proj": {"bits": 8}},
        "text_config": {"hidden_size": 8, "tie_word_embeddings": True, "eos_token_id": None},
    }
    assert text_model(config, {}).config == {
        "model_type": "mistral",
        "hidden_size": 8,
        "tie_word_embeddings": False,
        "eos_token_id": [1, 2],
        "quantization": {"bits": 4, "model.layers.0.mlp.up_proj": {"bits": 8}},
    }


def test_a_plain_model_stays_as_it_is():
    config = {"model_type": "llama", "hidden_size": 8}
    assert text_model(config, entries("model.norm.weight")).config is config


def test_what_a_wrapper_leaves_unsaid_is_the_default_of_its_text_model_s_class():
    """As in Gemma 3's own files, whose vocabulary and heads only transformers' code states."""
    published = {"model_type": "gemma3", "text_config": {"hidden_size": 2560, "model_type": "gemma3_text"}}
    text = text_model(published, {}).config
    assert (text["vocab_size"], text["num_attention_heads"], text["num_key_value_heads"]) == (262_208, 8, 4)
    assert text["hidden_size"] == 2560
