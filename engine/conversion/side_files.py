"""The files that go with a model's weights: tokenizer, templates, settings of generation and of sentence vectors.

Knows names; a GGUF carries all of this in its own header, see gguf_tokenizer.py.
"""

import re
from pathlib import Path

from engine.checkpoint.folder import ModelFolder
from engine.checkpoint.shards import INDEX_FILE
from engine.conversion.folder_writer import CONFIG_FILE

_SMALL = (".json", ".jinja", ".txt", ".model", ".spm")
_NOT_THESE = frozenset({CONFIG_FILE, INDEX_FILE, "bramley.json", "quantize_config.json", "quant_config.json"})
_OF_PICKLES = ".bin.index.json"
# Sentence-transformers keep the modules after the transformer in numbered folders.
_MODULE_FOLDER = re.compile(r"\d{1,2}_[A-Za-z]{1,32}", re.ASCII)
_MODULE_FILES = (".json", ".safetensors", ".txt")


def side_files(path: Path) -> dict[str, Path]:
    """The files to take over from a safetensors folder, by their names below it. Raises CheckpointError."""
    folder = ModelFolder(path)
    names = [name for name in folder.names() if name.endswith(_SMALL) and not name.endswith(_OF_PICKLES)]
    files = {name: folder.file(name) for name in names if name not in _NOT_THESE}
    for name in folder.names():
        if _MODULE_FOLDER.fullmatch(name) and (path / name).is_dir():
            module = folder.folder(name)
            inner = [each for each in module.names() if each.endswith(_MODULE_FILES)]
            files |= {f"{name}/{each}": module.file(each) for each in inner}
    return files
