"""The settings of sentence-transformers, by which a checkpoint makes a vector or score of a text. Imports no mlx.

Where the files are missing, an encoder's vector is the mean of its tokens', brought to length 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.folder import ModelFolder
from engine.checkpoint.safetensors import read_entries
from engine.checkpoint.tensors import TensorEntry
from engine.errors import CheckpointNotFound, CheckpointUnsupported

MODULES_FILE = "modules.json"
_PROMPTS_FILE = "config_sentence_transformers.json"
_READER_FILES = tuple(f"sentence_{family}_config.json" for family in ("bert", "roberta", "distilbert", "xlm-roberta"))
_WEIGHTS_FILE = "model.safetensors"
_MAX_BYTES = 8 << 20
_MAX_COUNT = 1 << 24
_MAX_PROMPT_CHARACTERS = 1 << 16

PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
# Under the older switches, in the order in which pooled vectors are joined.
_MODES: dict[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
_DENSE_ACTIVATIONS = {"Tanh": "tanh", "Identity": "", "ReLU": "relu", "GELU": "gelu", "SiLU": "silu"}
_SCORE_ACTIVATIONS = {"Sigmoid": True, "Identity": False}


@dataclass(frozen=True, slots=True)
class DenseSettings:
    """A linear layer over the pooled vector. activation: a name of engine.layers.activations, "" for none."""

    input_size: int
    output_size: int
    bias: bool
    activation: str
    tensors: Mapping[str, TensorEntry]


@dataclass(frozen=True, slots=True)
class SentenceSettings:
    """From tokens' vectors to a text's.

    declared: the checkpoint has a modules.json; a decoder without one writes text instead
    modes: ways to pool, whose vectors are joined; empty where the files name none
    pools_prompt: a prompt's tokens are pooled with the text's
    dense: layers over the pooled vector; normalize: it is brought to length 1 at the end
    max_length: tokens of a text; None leaves the model's own limit
    lowercase: texts are read in lower case
    prompts: beginnings to put before a text, by name; default_prompt: the name of the one that is always put
    dimensions: sizes to which a vector may be cut; None for no other than its own, () for any
    sigmoid: scores are brought between 0 and 1; None does so where there is one label
    """

    declared: bool = False
    modes: tuple[PoolingMode, ...] = ("mean",)
    pools_prompt: bool = True
    dense: tuple[DenseSettings, ...] = ()
    normalize: bool = True
    max_length: int | None = None
    lowercase: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    dimensions: tuple[int, ...] | None = None
    sigmoid: bool | None = None

    def allows(self, dimensions: int, own: int) -> bool:
        """True when a vector of `own` numbers may be had with so many."""
        if dimensions == own:
            return True
        return self.dimensions is not None and dimensions < own and dimensions in (self.dimensions or (dimensions,))


def read_sentence_settings(checkpoint: Checkpoint) -> SentenceSettings:
    """Read the files beside the weights.

    Raises CheckpointUnsupported for a module, pooling or activation that is not implemented, and CheckpointCorrupt.
    """
    if checkpoint.format == "gguf":
        return SentenceSettings()
    folder = ModelFolder(checkpoint.path)
    reader = next((_object(folder, name) for name in _READER_FILES if folder.has(name)), {})
    saved = _object(folder, _PROMPTS_FILE)
    prompts = _prompts(saved)
    return SentenceSettings(
        **(_modules(folder) if folder.has(MODULES_FILE) else {}),
        max_length=_count(reader, "max_seq_length"),
        lowercase=_flag(reader, "do_lower_case", default=False),
        prompts=prompts,
        default_prompt=_default_prompt(saved, prompts),
        dimensions=_dimensions(checkpoint.config),
        sigmoid=_sigmoid(checkpoint.config, saved),
    )


def _modules(folder: ModelFolder) -> dict[str, Any]:
    """The settings in the chain of modules: a transformer, a pooling, and layers over the pooled vector."""
    chain = [_module(entry) for entry in folder.json_list(MODULES_FILE, _MAX_BYTES)]
    kinds = [kind for kind, _ in chain]
    if kinds[:1] != ["Transformer"] or kinds[2:].count("Pooling") or kinds.count("Transformer") > 1 or chain[0][1]:
        raise CheckpointUnsupported(MODULES_FILE, kinds, "Transformer at the top, Pooling, then Dense and Normalize")
    if "Normalize" in kinds[:-1]:
        raise CheckpointUnsupported(MODULES_FILE, kinds, "Normalize as the last module")
    return {
        "declared": True,
        **(_pooling(folder.folder(chain[1][1])) if kinds[1:2] == ["Pooling"] else {"modes": ()}),
        "dense": tuple(_dense(folder.folder(path)) for kind, path in chain if kind == "Dense"),
        "normalize": kinds[-1] == "Normalize",
    }


def _module(entry: Any) -> tuple[str, str]:
    """Kind and folder of one entry. Classes of other packages would be code of the checkpoint's own."""
    values = entry if isinstance(entry, dict) else {}
    name, path = values.get("type"), values.get("path", "")
    package, _, kind = name.rpartition(".") if isinstance(name, str) else ("", "", "")
    if package.split(".")[0] != "sentence_transformers" or kind not in _MODULES or not isinstance(path, str):
        raise CheckpointUnsupported(f"{MODULES_FILE} type", name, ", ".join(_MODULES))
    return kind, path


def _pooling(folder: ModelFolder) -> dict[str, Any]:
    config = folder.json("config.json", _MAX_BYTES)
    switched = [key for key in config if key.startswith("pooling_mode_") and _flag(config, key, default=False)]
    if unknown := set(switched) - _MODES.keys():
        raise CheckpointUnsupported(min(unknown), True, ", ".join(_MODES))
    named = config.get("pooling_mode")
    if named is None:
        modes = [mode for key, mode in _MODES.items() if key in switched] or ["mean"]
    else:
        modes = named if isinstance(named, list) else [named]
    if not modes or any(mode not in _MODES.values() for mode in modes):
        raise CheckpointUnsupported("pooling_mode", named, ", ".join(_MODES.values()))
    return {"modes": tuple(modes), "pools_prompt": _flag(config, "include_prompt", default=True)}


def _dense(folder: ModelFolder) -> DenseSettings:
    config = folder.json("config.json", _MAX_BYTES)
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise CheckpointUnsupported(key, config[key], "sentence_embedding")
    if _flag(config, "use_residual", default=False):
        raise CheckpointUnsupported("use_residual", True, "false")
    sizes = [_count(config, key) for key in ("in_features", "out_features")]
    if sizes[0] is None or sizes[1] is None:
        raise CheckpointUnsupported("in_features, out_features", None, "two numbers")
    if not folder.has(_WEIGHTS_FILE):
        raise CheckpointNotFound(folder.name, f"the module has no {_WEIGHTS_FILE}; pickles are not read")
    name = _torch_class(config, "activation_function", _DENSE_ACTIVATIONS) or "Tanh"
    return DenseSettings(
        input_size=sizes[0],
        output_size=sizes[1],
        bias=_flag(config, "bias", default=True),
        activation=_DENSE_ACTIVATIONS[name],
        tensors=read_entries(folder.file(_WEIGHTS_FILE)),
    )


def _prompts(saved: Mapping[str, Any]) -> dict[str, str]:
    """Texts by name; the library writes names down even where no text was set."""
    given = saved.get("prompts") or {}
    prompts = {name: text or "" for name, text in given.items()} if isinstance(given, dict) else {"": given}
    if any(not isinstance(text, str) or len(text) > _MAX_PROMPT_CHARACTERS for text in prompts.values()):
        raise CheckpointUnsupported(f"{_PROMPTS_FILE} prompts", type(given).__name__, "texts by name")
    return prompts


def _default_prompt(saved: Mapping[str, Any], prompts: Mapping[str, str]) -> str | None:
    name = saved.get("default_prompt_name")
    if name is not None and name not in prompts:
        raise CheckpointUnsupported("default_prompt_name", name, "a name among the prompts")
    return name


def _dimensions(config: Mapping[str, Any]) -> tuple[int, ...] | None:
    """`matryoshka_dimensions` lists the sizes; `is_matryoshka` allows any. Nothing else says that cutting is sound."""
    listed = config.get("matryoshka_dimensions")
    if listed is not None:
        if not isinstance(listed, list) or any(type(each) is not int or each < 1 for each in listed):
            raise CheckpointUnsupported("matryoshka_dimensions", listed, "a list of sizes")
        return tuple(listed) or None
    return () if _flag(config, "is_matryoshka", default=False) else None


def _sigmoid(config: Mapping[str, Any], saved: Mapping[str, Any]) -> bool | None:
    own = config.get("sentence_transformers")
    places = (
        (own if isinstance(own, dict) else {}, "activation_fn"),
        (config, "sbert_ce_default_activation_function"),
        (saved, "activation_fn"),
    )
    names = [_torch_class(values, key, _SCORE_ACTIVATIONS) for values, key in places]
    return next((_SCORE_ACTIVATIONS[name] for name in names if name is not None), None)


def _torch_class(values: Mapping[str, Any], key: str, known: Mapping[str, object]) -> str | None:
    """The last part of a class's dotted name, as these files spell functions; None where the key is missing."""
    value = values.get(key)
    if value is None:
        return None
    name = value.rpartition(".")[2] if isinstance(value, str) and value.startswith("torch.nn.") else ""
    if name not in known:
        raise CheckpointUnsupported(key, value, ", ".join(known))
    return str(name)


def _object(folder: ModelFolder, name: str) -> dict[str, Any]:
    return folder.json(name, _MAX_BYTES) if folder.has(name) else {}


def _count(values: Mapping[str, Any], key: str) -> int | None:
    value = values.get(key)
    if value is not None and (type(value) is not int or not 1 <= value <= _MAX_COUNT):
        raise CheckpointUnsupported(key, value, f"a whole number from 1 to {_MAX_COUNT}")
    return value


def _flag(values: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = values.get(key)
    if value is not None and not isinstance(value, bool):
        raise CheckpointUnsupported(key, value, "true or false")
    return default if value is None else value
