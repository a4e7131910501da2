"""Folders quantised by MLX: which modules are packed and how is known from config.json and the headers alone."""

import json

import mlx.core as mx
import pytest

from engine.checkpoint.checkpoint import Quantization, open_checkpoint
from engine.checkpoint.load import load_tensors
from engine.errors import CheckpointCorrupt, CheckpointUnsupported

PATH = "model.layers.0.mlp.up_proj"
WEIGHT = mx.random.normal((16, 256), key=mx.random.key(6))


def packed(path=PATH, *, weight=WEIGHT, **how):
    """The arrays of one packed module, as mlx-lm saves them."""
    arrays = dict(zip(("weight", "scales", "biases"), mx.quantize(weight, **how), strict=False))
    return {f"{path}.{name}": array for name, array in arrays.items()}


@pytest.fixture
def write(tmp_path, write_folder):
    def write(arrays, config):
        folder = write_folder(tmp_path, {}, config)
        mx.save_safetensors(str(folder / "model.safetensors"), arrays, metadata={"format": "mlx"})
        return folder

    return write


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_a_quantised_folder_is_read_as_it_is(bits, group_size, write):
    arrays = packed(bits=bits, group_size=group_size) | {"model.norm.weight": mx.ones((4,))}
    checkpoint = open_checkpoint(write(arrays, {"quantization": {"group_size": group_size, "bits": bits}}))
    loaded = dict(load_tensors(checkpoint))
    assert checkpoint.quantization == {PATH: Quantization(bits=bits, group_size=group_size)}
    assert loaded.keys() == arrays.keys()
    assert all(mx.array_equal(loaded[name], array) for name, array in arrays.items())


@pytest.mark.parametrize(("mode", "group_size", "bits"), [("mxfp4", 32, 4), ("mxfp8", 32, 8), ("nvfp4", 16, 4)])
def test_the_other_modes_are_known(mode, group_size, bits, write):
    arrays = packed(mode=mode, group_size=group_size, bits=bits)
    settings = {"group_size": group_size, "bits": bits, "mode": mode}
    checkpoint = open_checkpoint(write(arrays, {"quantization": settings}))
    assert checkpoint.quantization == {PATH: Quantization(bits=bits, group_size=group_size, mode=mode)}
    loaded = dict(load_tensors(checkpoint))
    assert all(mx.array_equal(loaded[name], array) for name, array in arrays.items())


def test_overrides_go_by_module_path(write):
    arrays = packed("a", bits=4, group_size=64) | packed("b", bits=8, group_size=32) | {"c.weight": WEIGHT}
    settings = {"group_size": 64, "bits": 4, "a": True, "b": {"group_size": 32, "bits": 8}, "c": False}
    assert open_checkpoint(write(arrays, {"quantization": settings})).quantization == {
        "a": Quantization(bits=4, group_size=64),
        "b": Quantization(bits=8, group_size=32),
    }


def test_an_override_without_a_mode_is_affine(write):
    """As mlx-lm writes gpt-oss: experts in mxfp4, attention in affine 8 bits."""
    arrays = packed("experts", mode="mxfp4") | packed("attention", bits=8, group_size=64)
    settings = {"group_size": 32, "bits": 4, "mode": "mxfp4", "attention": {"group_size": 64, "bits": 8}}
    assert open_checkpoint(write(arrays, {"quantization": settings})).quantization == {
        "experts": Quantization(bits=4, group_size=32, mode="mxfp4"),
        "attention": Quantization(bits=8, group_size=64, mode="affine"),
    }


def test_stacked_experts_are_packed_in_three_dimensions(write):
    arrays = packed("experts", weight=mx.random.normal((3, 16, 128)), bits=4, group_size=64)
    quantization = open_checkpoint(write(arrays, {"quantization": {"group_size": 64, "bits": 4}})).quantization
    assert quantization == {"experts": Quantization(bits=4, group_size=64)}


def test_a_dense_module_in_a_quantised_folder_stays_dense(write):
    checkpoint = open_checkpoint(write({"a.weight": WEIGHT}, {"quantization": {"group_size": 64, "bits": 4}}))
    assert checkpoint.quantization == {}


@pytest.mark.parametrize("extra", [{}, {"quant_method": "mlx"}])
def test_the_copy_that_mlx_makes_for_transformers_is_understood(extra, write):
    settings = {"group_size": 64, "bits": 4} | extra
    arrays = packed(bits=4, group_size=64)
    expected = {PATH: Quantization(bits=4, group_size=64)}
    assert open_checkpoint(write(arrays, {"quantization_config": settings})).quantization == expected
    both = {"quantization": settings, "quantization_config": settings}
    assert open_checkpoint(write(arrays, both)).quantization == expected


def test_an_exact_copy_is_mlxs_own_whatever_it_calls_itself(write):
    settings = {"group_size": 64, "bits": 4, "quant_method": "custom"}
    config = {"quantization": settings, "quantization_config": settings}
    assert set(open_checkpoint(write(packed(bits=4, group_size=64), config)).quantization) == {PATH}


def test_a_packed_module_that_is_said_to_be_dense_is_named(write):
    settings = {"group_size": 64, "bits": 4, PATH: False}
    with pytest.raises(CheckpointCorrupt, match=rf"{PATH}.*not packed"):
        open_checkpoint(write(packed(bits=4, group_size=64), {"quantization": settings}))


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8", "mxfp4", "compressed-tensors", 7])
def test_another_librarys_quantisation_is_refused_by_name(method, write):
    config = {"quantization_config": {"quant_method": method, "bits": 4, "group_size": 128}}
    name = repr(method) if isinstance(method, str) else "int"
    with pytest.raises(CheckpointUnsupported, match=rf"quantization_config\.quant_method = .*{name}"):
        open_checkpoint(write({"a.weight": WEIGHT}, config))


@pytest.mark.parametrize(
    "settings",
    [
        {"group_size": 64, "bits": 7},
        {"group_size": 48, "bits": 4},
        {"group_size": 64, "bits": "4"},
        {"group_size": 64, "bits": True},
        {"group_size": 64, "bits": 4.0},
        {"group_size": -64, "bits": 4},
        {"group_size": [64], "bits": 4},
        {"group_size": 64, "bits": 4, "mode": "ternary"},
        {"group_size": 64, "bits": 4, "mode": 1},
        {"group_size": 64, "bits": 4, PATH: {"group_size": 64, "bits": 1000}},
    ],
    ids=json.dumps,
)
def test_settings_that_mlx_has_not_are_refused(settings, write):
    with pytest.raises(CheckpointUnsupported):
        open_checkpoint(write(packed(bits=4, group_size=64), {"quantization": settings}))


@pytest.mark.parametrize(
    "settings",
    [
        {"group_size": 64, "bits": 8},
        {"group_size": 32, "bits": 4},
        {"group_size": 128, "bits": 4},
        {"group_size": 64, "bits": 3},
        {"group_size": 32, "bits": 4, "mode": "mxfp4"},
        {"group_size": 64, "bits": 4, PATH: False},
        {"group_size": 64, "bits": 4, PATH: 4},
        {"group_size": 64, "bits": 4, PATH: None},
        {},
        None,
        [],
        "4bit",
    ],
    ids=json.dumps,
)
def test_settings_that_the_tensors_contradict_are_refused(settings, write):
    with pytest.raises(CheckpointCorrupt):
        open_checkpoint(write(packed(bits=4, group_size=64), {"quantization": settings}))


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": None},
        {"biases": None},
        {"weight": WEIGHT},
        {"weight": mx.zeros((15, 32), mx.uint32)},
        {"weight": mx.zeros((32,), mx.uint32)},
        {"weight": mx.zeros((16, 33), mx.uint32)},
        {"scales": mx.zeros((16, 5))},
        {"scales": mx.zeros((16, 4), mx.uint8), "biases": mx.zeros((16, 4), mx.uint8)},
        {"biases": mx.zeros((16, 5))},
        {"biases": mx.zeros((16, 4), mx.float16)},
    ],
    ids=range(10),
)
def test_tensors_that_do_not_fit_together_are_refused(changes, write):
    arrays = packed(bits=4, group_size=64) | {f"{PATH}.{name}": array for name, array in changes.items()}
    present = {name: array for name, array in arrays.items() if array is not None}
    with pytest.raises(CheckpointCorrupt, match=PATH):
        open_checkpoint(write(present, {"quantization": {"group_size": 64, "bits": 4}}))


EXPERTS = "model.layers.0.mlp.experts"
BLOCKS = {
    f"{EXPERTS}.gate_up_proj_blocks": mx.zeros((2, 64, 2, 16), mx.uint8),
    f"{EXPERTS}.gate_up_proj_scales": mx.zeros((2, 64, 2), mx.uint8),
    f"{EXPERTS}.down_proj_blocks": mx.zeros((2, 64, 1, 16), mx.uint8),
    f"{EXPERTS}.down_proj_scales": mx.zeros((2, 64, 1), mx.uint8),
}
PUBLISHED = {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}}


def test_openai_s_blocks_are_mlx_s_mxfp4_in_three_modules(write):
    mxfp4 = Quantization(bits=4, group_size=32, mode="mxfp4")
    names = ("gate_proj", "up_proj", "down_proj")
    quantization = open_checkpoint(write(BLOCKS, PUBLISHED)).quantization
    assert quantization == {f"{EXPERTS}.{name}": mxfp4 for name in names}


@pytest.mark.parametrize(
    "changes",
    [
        {"gate_up_proj_blocks": mx.zeros((2, 64, 2, 8), mx.uint8)},
        {"gate_up_proj_blocks": mx.zeros((2, 64, 2, 16), mx.int8)},
        {"gate_up_proj_blocks": mx.zeros((2, 64, 16), mx.uint8)},
        {"down_proj_scales": mx.zeros((2, 64, 2), mx.uint8)},
        {"down_proj_scales": mx.zeros((2, 64, 1), mx.float16)},
        {"down_proj_scales": None},
    ],
    ids=range(6),
)
def test_blocks_that_do_not_fit_their_scales_are_refused(changes, write):
    arrays = BLOCKS | {f"{EXPERTS}.{name}": array for name, array in changes.items()}
    present = {name: array for name, array in arrays.items() if array is not None}
    with pytest.raises(CheckpointCorrupt, match="experts"):
        open_checkpoint(write(present, PUBLISHED))


def test_blocks_that_no_configuration_speaks_of_are_not_taken_for_packed(write):
    assert open_checkpoint(write(BLOCKS, {})).quantization == {}
