"""INT8 and INT4 folders of every family, as MLX writes them: they load, and compute what their unpacked weights do.

The fixtures are too narrow to be packed in groups of 32, so each is drawn anew, some times as wide. Errors against
float32 are those of random weights, which have nothing that is easy to round; bounds are of the relative RMS.
"""

import json
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from engine.attention.batch import Batch
from engine.cache.layout import Dense
from engine.cache.slots import lone_slot
from engine.checkpoint.checkpoint import open_checkpoint
from engine.conversion.quantize import convert, quantize
from engine.device import Device, prepare_device
from engine.errors import CheckpointError
from engine.layers.encoder import Encoder
from engine.layers.module import EncoderDecoder
from engine.model import build_encoder, build_model, is_encoder
from engine.quantization_rules import QuantizationChoice

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 1e-4
WITHIN_HEADS = (
    *("head_dim", "d_kv", "query_pre_attn_scalar"),
    *("global_head_dim", "laurel_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"),
    *("mamba_n_heads", "mamba_num_heads", "num_heads", "mamba_d_state", "ssm_state_size", "state_size"),
    "mamba_dt_rank",
)
WIDTHS = (
    *("hidden_size", "intermediate_size", "moe_intermediate_size", "dim", "hidden_dim", "n_embd", "n_inner"),
    *("d_model", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim", "kv_lora_rank", *WITHIN_HEADS),
    *("prefix_dense_intermediate_size", "intermediate_size_mlp", "hidden_size_per_layer_input"),
    *("block_ff_dim", "shared_expert_intermediate_size", "linear_key_head_dim", "linear_value_head_dim"),
    *("shared_intermediate_size", "moe_shared_expert_intermediate_size", "moe_latent_size", "mamba_d_ssm"),
)
# Axes that count tokens, places, experts, heads, labels or kinds of text: they keep their length.
COUNTS = (
    (r"(embed_tokens(_per_layer)?|embeddings|shared|wte|embed_in|embed_out|lm_head)\.weight", {0}),
    (r"(words?_embeddings|tok_embeddings)\.weight", {0}),
    (r"(embed_positions|wpe|position_embeddings|token_type_embeddings)\.weight", {0}),
    (r"(lm_head|router|router\.layer|(block_sparse_moe|mlp|feed_forward|mixer)\.gate)\.(weight|bias)", {0}),
    (r"(^classifier|classifier\.out_proj)\.(weight|bias)", {0}),
    (r"(gate_up_proj|down_proj)(_bias)?$|sinks$|switch_mlp\.|moe\.\w+put_linear\.weight$", {0}),
    (r"(e_score_correction|expert)_bias$", {0, 1}),
    (r"act_fn\.", {0}),
    (r"relative_attention_bias|final_logits_bias", {0, 1}),
    (r"altup\.(correction|prediction)_coefs\.weight$", {0, 1}),
    (r"router\.proj\.weight$|per_expert_scale$|layer_scalar$", {0}),
    (r"conv1?d?\.weight$", {1, 2}),
    (r"in_proj_(a|b|ba)\.weight$|linear_attn\.(A_log|dt_bias)$|shared_expert_gate\.weight$", {0}),
)
NORM_PER_HEAD = re.compile(r"[qk]_norm\.weight$")
# How weights are packed, and the relative RMS of what comes out against float32, at most: median 0.02, 0.3 and 0.4,
# and most where a choice of experts or a sharp attention tips over (Gemma 3, T5), or little is put out (classifiers).
MODES: dict[str, tuple[dict[str, Any], float]] = {
    "int8": ({"bits": 8, "group_size": 32, "mode": "affine"}, 0.12),
    "int4": ({"bits": 4, "group_size": 32, "mode": "affine"}, 0.7),
    "mxfp4": ({"bits": 4, "group_size": 32, "mode": "mxfp4"}, 0.9),
}
# Gated DeltaNet reads its memory through a norm, which makes what is left of a rounded key as long as the key was.
MORE_SENSITIVE = {
    **{"qwen3_5_text": 2.6, "qwen3_5_moe_text": 2.6, "qwen3_next": 2.6, "lfm2": 1.1, "qwen2_moe": 1.4},
    **{"jamba": 1.4, "mamba2": 1.4},
}
UNSCALED = ("gemma3n_text", "gemma4_text")  # their norms of keys hold the scale of scores
# The kernels round activations to 15 bits; relative RMS.
KERNELS_TOLERANCE = 5e-4
MIXTURE = [MODES["int8"][0], None, MODES["mxfp4"][0], MODES["int4"][0], {"bits": 6, "group_size": 64, "mode": "affine"}]
# There MLX multiplies by packed weights. Token vectors of mxfp4 come out of it in bfloat16.
AS_ON_METAL = Device("metal", None, "", "")
LENGTH = 18  # two tokens past the windows
LEFT_OUT = ("quantization_config", "text_config")  # packed already; wrappers of text models that have their own rows
KINDS = ("decoder", "encoder-decoder", "encoder", "classifier")
Arrays = dict[str, mx.array]


def fixtures() -> list[Path]:
    """One of each set of tensors: rows that differ in rotary positions or windows alone add nothing here."""
    found: dict[tuple[str, ...], Path] = {}
    for path in sorted(path.parent for path in FIXTURES.glob("*/row.json")):
        if read(path, "row")["kind"] not in KINDS or not read(path, "config").keys().isdisjoint(LEFT_OUT):
            continue
        if path.name == "lfm2-older-keys":
            continue  # its widths follow from one another by rounding
        names = sorted(mx.load(str(path / "model.safetensors")))
        found.setdefault((read(path, "config")["model_type"], *names), path)
    return list(found.values())


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text())


def factor(config: dict[str, Any]) -> int:
    """How much wider it has to be for all matrices to be packed in groups of 32."""
    inner = [config[key] for key in WIDTHS if isinstance(config.get(key), int) and key not in WITHIN_HEADS]
    return next(times for times in (2, 4, 8) if all(width * times % 32 == 0 for width in inner))


def widened(config: dict[str, Any], times: int) -> dict[str, Any]:
    """The same model with wider layers; frequencies of longer heads repeat."""
    # The heads of Mamba-2 become more, not longer: its steps lie beside them in one projection.
    kept = "head_dim" if config["model_type"] == "mamba2" else "num_heads"
    longer = [key for key in WIDTHS if key != kept]
    wide = config | {key: config[key] * times for key in longer if isinstance(config.get(key), int)}
    if isinstance(config.get("intermediate_size"), list):
        wide["intermediate_size"] = [size * times for size in config["intermediate_size"]]
    for key in ("rope_parameters", "rope_scaling"):
        if isinstance(wide.get(key), dict):
            wide[key] = {k: v * times if isinstance(v, list) else v for k, v in wide[key].items()}
    return wide


def draw(name: str, shape: tuple[int, ...], times: int) -> mx.array:
    counted = next((axes for pattern, axes in COUNTS if re.search(pattern, name)), set())
    if not shape:
        return mx.array(0.5)
    if len(shape) == 2 and NORM_PER_HEAD.search(name):
        counted = {0}
    wide = [length if axis in counted else length * times for axis, length in enumerate(shape)]
    noise = mx.random.normal(wide)
    if len(shape) == 1:
        return noise * 0.1 + (1.0 if name.endswith(("weight", "layer_scalar")) else 0.0)
    if "bias" in name:
        return noise
    narrower = 0.35 if name.endswith("Attention.q.weight") else 1.0  # T5 does not scale its scores
    return noise * narrower * wide[-1] ** -0.5


def in_mlx_s_layout(config: dict[str, Any], weights: Arrays) -> Arrays:
    """Names and axes as mlx-lm's conversion leaves them; it has no encoders, which keep theirs."""
    model_type = config["model_type"]
    if model_type == "gpt2":
        turned = re.compile(r"(c_attn|c_proj|c_fc)\.weight$")
        weights = {name: array.T if turned.search(name) else array for name, array in weights.items()}
        return {name.replace("transformer.", "model."): array for name, array in weights.items()}
    if model_type == "gpt_neox":
        weights = {f"model.{name}": array for name, array in weights.items()}
        weights = {name.replace(".gpt_neox.layers.", ".h."): array for name, array in weights.items()}
        return {name.replace(".gpt_neox.", "."): array for name, array in weights.items()}
    if model_type == "gpt_oss":
        return parted(weights)
    if model_type in ("deepseek_v3", "kimi_k2", "glm4_moe_lite"):
        weights = with_parted_expansions(weights, config)
    if model_type == "gemma4_text":
        return with_parted_experts(weights)
    if model_type == "granitemoe":
        weights = with_parted_gates(weights)
    if model_type == "nemotron_h":
        names = {".switch_mlp.up_proj.": ".switch_mlp.fc1.", ".switch_mlp.down_proj.": ".switch_mlp.fc2."}
        for theirs, ours in names.items():
            weights = {name.replace(theirs, ours): array for name, array in stacked(weights).items()}
        return weights
    return in_halves(weights) if model_type == "granitemoehybrid" else stacked(weights)


def in_halves(weights: Arrays) -> Arrays:
    """Granite 4: gate and up of the experts apart, and those of the MLP where there are no experts."""
    result: Arrays = {}
    has_experts = any(".block_sparse_moe." in name for name in weights)
    for name, array in weights.items():
        for theirs, ours, axis in (
            (".block_sparse_moe.", ".block_sparse_moe.switch_mlp.", 1),
            (".shared_mlp.", ".mlp.", 0),
        ):
            if axis == 0 and has_experts:
                continue
            if f"{theirs}input_linear." in name:
                for part, half in zip(("gate_proj", "up_proj"), mx.split(array, 2, axis=axis), strict=True):
                    result[name.replace(f"{theirs}input_linear", f"{ours}{part}")] = mx.contiguous(half)
                break
            if f"{theirs}output_linear." in name:
                result[name.replace(f"{theirs}output_linear", f"{ours}down_proj")] = array
                break
        else:
            result[name] = array
    return result


def with_parted_experts(weights: Arrays) -> Arrays:
    """Gemma 4: experts under a module of their own, gate and up apart."""
    result: Arrays = {}
    for name, array in weights.items():
        if name.endswith(".experts.gate_up_proj"):
            parts = zip(("gate_proj", "up_proj"), mx.split(array, 2, axis=1), strict=True)
        elif name.endswith(".experts.down_proj"):
            parts = iter([("down_proj", array)])
        else:
            parts = iter([])
            result[name] = array
        prefix = name.rpartition(".")[0]
        result |= {f"{prefix}.switch_glu.{part}.weight": mx.contiguous(each) for part, each in parts}
    return result


def with_parted_gates(weights: Arrays) -> Arrays:
    """Granite: gate and up of the experts apart."""
    result: Arrays = {}
    for name, array in weights.items():
        if ".input_linear." in name:
            for part, rows in zip(("gate_proj", "up_proj"), mx.split(array, 2, axis=1), strict=True):
                result[name.replace("input_linear", f"switch_mlp.{part}")] = mx.contiguous(rows)
        else:
            result[name.replace("output_linear", "switch_mlp.down_proj")] = array
    return result


def with_parted_expansions(weights: Arrays, config: dict[str, Any]) -> Arrays:
    """DeepSeek V3: what expands latents into keys and values apart, by head, the keys' turned round."""
    content, result = config["qk_nope_head_dim"], dict(weights)
    for name in [name for name in weights if ".kv_b_proj." in name]:
        by_head = result.pop(name).reshape(config["num_attention_heads"], content + config["v_head_dim"], -1)
        result[name.replace("kv_b_proj", "embed_q")] = mx.contiguous(by_head[:, :content].swapaxes(-1, -2))
        result[name.replace("kv_b_proj", "unembed_out")] = mx.contiguous(by_head[:, content:])
    return result


def parted(weights: Arrays) -> Arrays:
    """gpt-oss: gate and up apart, matrices as (experts, out, in)."""
    result: Arrays = {}
    for name, array in weights.items():
        prefix, found, kind = name.partition(".experts.")
        if not found:
            result[name] = array
            continue
        is_bias = kind.endswith("_bias")
        by_row = array if is_bias else array.swapaxes(-1, -2)
        rows = {"gate_proj": by_row[:, ::2], "up_proj": by_row[:, 1::2]} if "gate" in kind else {"down_proj": by_row}
        attribute = "bias" if is_bias else "weight"
        result |= {f"{prefix}.experts.{part}.{attribute}": mx.contiguous(each) for part, each in rows.items()}
    return result


def stacked(weights: Arrays) -> Arrays:
    """Experts in one array per projection."""
    names = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
    found: dict[str, dict[int, mx.array]] = {}
    result = dict(weights)
    for name in weights:
        if match := re.fullmatch(r"(.*)\.experts\.(\d+)\.(\w+)\.weight", name):
            prefix, number, part = match.groups()
            found.setdefault(f"{prefix}.switch_mlp.{names.get(part, part)}.weight", {})[int(number)] = result.pop(name)
    return result | {name: mx.stack([parts[n] for n in sorted(parts)]) for name, parts in found.items()}


def can_be_packed(name: str, array: mx.array, group_size: int) -> bool:
    is_matrix = name.endswith(".weight") and array.ndim > 1 and not NORM_PER_HEAD.search(name)
    return is_matrix and array.shape[-1] % group_size == 0


def pack(weights: Arrays, choices: list[dict[str, Any] | None]) -> tuple[Arrays, Arrays, dict[str, Any]]:
    """Packed arrays, the same unpacked again, and `quantization`; modules take the choices in turn."""
    packed: Arrays = {}
    unpacked: Arrays = {}
    settings: dict[str, Any] = {"bits": 4, "group_size": 64} if len(choices) > 1 else dict(choices[0] or {})
    turn = 0
    for name, array in weights.items():
        packed[name] = unpacked[name] = array
        how = choices[turn % len(choices)]
        if not can_be_packed(name, array, 32 if how is None else how["group_size"]):
            continue
        turn += 1
        path = name.removesuffix(".weight")
        if len(choices) > 1:
            settings[path] = how or False
        if how is not None:
            parts = mx.quantize(array, **how)
            packed |= {
                f"{path}.{part}": each for part, each in zip(("weight", "scales", "biases"), parts, strict=False)
            }
            unpacked[name] = mx.dequantize(*parts, **how, dtype=mx.float32)
    return packed, unpacked, settings


def write(folder: Path, config: dict[str, Any], weights: Arrays) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return folder


def compute(folder: Path, inputs: dict[str, mx.array], device: Device) -> np.ndarray:
    """Logits, scores or vectors of the fixture's inputs."""
    checkpoint = open_checkpoint(folder)
    if is_encoder(checkpoint):
        return read_texts(build_encoder(checkpoint, device), inputs)
    model = build_model(checkpoint, device)
    ids = inputs["decoder_input_ids" if isinstance(model, EncoderDecoder) else "input_ids"]
    slot = lone_slot(model.cache, Dense(), ids.shape[1] + 1, inputs["input_ids"].shape[1])
    if isinstance(model, EncoderDecoder):
        slot.store_source(model.encode(inputs["input_ids"]))
    batch = Batch([slot])
    hidden = model(ids, batch)
    return np.array(model.logits(hidden)[0].astype(mx.float32))


def read_texts(model: Encoder, inputs: dict[str, mx.array]) -> np.ndarray:
    ids, mask = inputs["input_ids"], inputs["attention_mask"] > 0
    hidden = model(ids, mask, inputs.get("token_type_ids", mx.zeros_like(ids)))
    return np.array(model.scores(hidden, mask) if model.num_labels else hidden * mask[..., None])


def relative(result: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(((result - expected) ** 2).mean() / (expected**2).mean()))


class Case:
    """One family's wide model in float32, and what it computes without kernels, which is exact."""

    def __init__(self, fixture: Path, folder: Path) -> None:
        self.config = read(fixture, "config")
        times = factor(self.config)
        self.config = widened(self.config, times)
        mx.random.seed(1)
        narrow = mx.load(str(fixture / "model.safetensors"))
        weights = {name: draw(name, narrow[name].shape, times) for name in sorted(narrow)}
        if self.config["model_type"] in UNSCALED:
            weights |= {name: array * 0.2 for name, array in weights.items() if name.endswith("k_norm.weight")}
        self.weights = in_mlx_s_layout(self.config, weights)
        self.published = weights
        inputs = mx.load(str(fixture / "fixture.safetensors"))
        self.inputs = {name: array[..., :LENGTH] for name, array in inputs.items()}
        self.folder = folder
        self._device = prepare_device("off")
        self.expected = compute(write(folder / "own", self.config, weights), self.inputs, self._device)
        self.num_results = self.expected.size

    def bound(self, of_most: float) -> float:
        """The relative RMS that this family may have where most may have `of_most`; below 1.2, which is noise."""
        return min(1.2, of_most * MORE_SENSITIVE.get(self.config["model_type"], 1.0))

    def run(
        self, name: str, weights: Arrays, settings: dict[str, Any] | None = None, device: Device | None = None
    ) -> np.ndarray:
        config = self.config if settings is None else self.config | {"quantization": settings}
        return compute(write(self.folder / name, config, weights), self.inputs, device or self._device)


@pytest.fixture(params=fixtures(), ids=lambda path: path.name, scope="module")
def case(request, tmp_path_factory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp(request.param.name))


def test_mlx_s_names_and_axes_are_the_published_ones(case):
    if case.weights.keys() != case.published.keys():
        assert np.abs(case.run("dense", case.weights) - case.expected).max() <= TOLERANCE


@pytest.mark.parametrize("mode", MODES)
def test_a_packed_folder_computes_what_its_unpacked_weights_do(case, mode):
    how, bound = MODES[mode]
    packed, unpacked, settings = pack(case.weights, [how])
    assert sum(name.endswith(".scales") for name in packed) > 5
    result = case.run(f"{mode}-packed", packed, settings)
    dense = case.run(f"{mode}-unpacked", unpacked)
    assert np.abs(result - dense).max() <= TOLERANCE
    if how["mode"] == "affine":
        stays_packed = compute(case.folder / f"{mode}-packed", case.inputs, AS_ON_METAL)
        assert np.abs(stays_packed - dense).max() <= TOLERANCE
    if case.num_results > 10:
        assert 0 < relative(result, case.expected) <= case.bound(bound)


def test_each_module_may_be_packed_in_its_own_way(case):
    packed, unpacked, settings = pack(case.weights, MIXTURE)
    assert len({json.dumps(how) for how in settings.values()}) > 3
    result = case.run("mixed-packed", packed, settings)
    assert np.abs(result - case.run("mixed-unpacked", unpacked)).max() <= TOLERANCE
    kernels = compute(case.folder / "mixed-packed", case.inputs, prepare_device())
    assert relative(kernels, result) <= KERNELS_TOLERANCE


def test_a_folder_is_quantised_and_expanded_again(case):
    """Names, axes and rules of every family: what is written loads, and expanding it changes no value."""
    small, large = case.folder / "quantised", case.folder / "expanded"
    written = quantize(case.folder / "own", small, QuantizationChoice(bits=4, group_size=32))
    assert written.num_quantized > 5
    assert not [path for path in read(small, "config")["quantization"] if re.search(r"router|mlp\.gate$", path)]
    result = compute(small, case.inputs, prepare_device("off"))
    if case.num_results > 10:
        assert 0 < relative(result, case.expected) <= case.bound(MODES["int4"][1])
    assert convert(small, large, dequantize=True).num_quantized == 0
    assert np.abs(compute(large, case.inputs, prepare_device("off")) - result).max() <= TOLERANCE
    assert {path.name for path in small.iterdir()} == {path.name for path in large.iterdir()}


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe"])
def test_experts_may_be_packed_one_by_one(name, tmp_path):
    """As MLX folders were written before experts were stacked."""
    case = Case(FIXTURES / name, tmp_path)
    packed, unpacked, settings = pack(case.published, [MODES["int4"][0]])
    assert sum(".experts.1." in path and path.endswith(".scales") for path in packed) >= 3
    result = case.run("one-by-one", packed, settings)
    assert np.abs(result - case.run("one-by-one-unpacked", unpacked)).max() <= TOLERANCE


def test_experts_of_different_shapes_are_refused(tmp_path):
    case = Case(FIXTURES / "mixtral", tmp_path)
    name = next(name for name in case.published if ".experts.1.w1." in name)
    with pytest.raises(CheckpointError, match=r"4 experts of one shape"):
        case.run("narrow", case.published | {name: case.published[name][1:]})
