"""Load the models whose folders are named on standard input, and tell for each how that went, on one line.

"ok BYTES", "refused BYTES reason", or "TRACEBACK kind: place"; BYTES is what the load took above what was there.
"""

import gc
import resource
import sys
import traceback
from pathlib import Path

import mlx.core as mx

from engine.attention.uncached_batch import UncachedBatch
from engine.checkpoint.checkpoint import open_checkpoint
from engine.checkpoint.generation_defaults import read_generation_defaults
from engine.device import Device, prepare_device
from engine.embedding.reader import build_reader, only_reads
from engine.embedding.sentence_settings import read_sentence_settings
from engine.errors import EngineError
from engine.model import build_model
from engine.text.chat import encode_chat
from engine.text.load import load_chat_template, load_tokenizer

_TEXT = "Hello w\u00f6rld, \u4f60\u597d <s></s> 12345\n\n  x"


def main() -> None:
    """One line in, one line out."""
    device = prepare_device("off")
    print("ready", flush=True)
    for line in sys.stdin:
        path = next(Path(line.strip()).glob("*.gguf"), Path(line.strip()))
        before = _reset_peak()
        try:
            _use(path, device)
            told = "ok {}"
        except EngineError as error:
            told = "refused {} " + " ".join(str(error).split())[:200].replace("{", "(").replace("}", ")")
        except BaseException as error:  # noqa: BLE001  # this is what is looked for
            place = traceback.extract_tb(error.__traceback__)
            own = [f"{Path(each.filename).name}:{each.lineno}" for each in place if "engine" in each.filename][-3:]
            told = f"TRACEBACK {type(error).__name__}: {' '.join(str(error).split())[:120]} at {' '.join(own)}"
            told = told.replace("{", "(").replace("}", ")")
        print(told.format(max(_peak() - before, 0)), flush=True)
        gc.collect()
        mx.clear_cache()


def _use(path: Path, device: Device) -> None:
    checkpoint = open_checkpoint(path)
    tokenizer = load_tokenizer(checkpoint)
    read_generation_defaults(checkpoint)
    ids = tokenizer.encode(_TEXT)
    tokenizer.encode(_TEXT, parse_special=False)
    tokenizer.encode_pair(_TEXT, _TEXT)
    for token_id in (0, 1, tokenizer.vocab_size - 1, tokenizer.vocab_size, 1 << 30):
        tokenizer.token(token_id), tokenizer.token_bytes(token_id), tokenizer.decode([token_id])
    tokenizer.decode(ids, skip_special_tokens=False)
    template = load_chat_template(checkpoint, tokenizer)
    if template is not None:
        encode_chat(template, tokenizer, [{"role": "user", "content": _TEXT}])
    tokens = mx.array([[0, 1, 2, 3]])
    if only_reads(checkpoint):
        read_sentence_settings(checkpoint)
        reader = build_reader(checkpoint, device)
        mx.eval(reader.read(tokens, mx.zeros_like(tokens), [4]))
    else:
        model = build_model(checkpoint, device)
        if hasattr(model, "encode"):
            return
        mx.eval(model.logits(model(tokens, UncachedBatch(model.cache, [4]))))


def _reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
