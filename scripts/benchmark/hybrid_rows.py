"""Tokens per second of a random Qwen 3.5 with gated DeltaNet layers: one row, and eight of different lengths together.

    .venv/bin/python scripts/benchmark/hybrid_rows.py [--layers 20] [--rows 1,8]

20 layers of hidden size 1024 over 32,000 tokens, in 4 bits, are about 250 MB of weights. Steps that only decode count.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).parent.parent.parent
ROUNDS, STEPS = 40, 3
CONFIG = {
    "model_type": "qwen3_5_text",
    "vocab_size": 32_000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "eos_token_id": 1,
    "quantization": {"bits": 4, "group_size": 64},
}


def main() -> None:
    """Measure each number of rows, and print a line for each."""
    from engine import Engine
    from engine.settings import EngineSettings

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--rows", default="1,8", help="rows per batch, with commas between")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        num_bytes = write_model(Path(folder), CONFIG | {"num_hidden_layers": arguments.layers})
        engine = Engine(Path(folder), EngineSettings(prefix_bytes=0))
        print(f"{num_bytes / 1e6:.0f} MB of weights, {arguments.layers} layers")
        for rows in map(int, arguments.rows.split(",")):
            rate = tokens_per_second(engine, rows)
            print(f"{rows} rows: {rate:.1f} tokens/s in all, {1000 * rows / rate:.1f} ms a step")
        engine.close()


def write_model(folder: Path, config: dict) -> int:
    """Write random weights, and return their bytes."""
    import mlx.core as mx

    from engine.architectures.qwen3_5 import Model
    from engine.config import ConfigReader
    from engine.layers.linear import Weight

    tensors = {}
    model = Model(ConfigReader(config))
    weights = {f"{name}.weight" for name, module in model.modules() if isinstance(module, Weight)}
    for name, array in model.parameters().items():
        drawn = mx.random.normal(array.shape) * 0.02
        if name in weights and array.shape[-1] % 64 == 0:
            path = name.removesuffix(".weight")
            parts = mx.quantize(drawn, group_size=64, bits=4)
            tensors |= dict(zip((name, f"{path}.scales", f"{path}.biases"), parts, strict=True))
        else:
            tensors[name] = drawn
        mx.eval(tensors)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    (folder / "config.json").write_text(json.dumps(config))
    return sum(array.nbytes for array in tensors.values())


def tokens_per_second(engine, rows: int) -> float:
    """Of all rows together, in the quickest round."""
    from engine.requests import GenerationRequest
    from engine.sampling.params import SamplingParams

    endless = SamplingParams(max_tokens=2000, temperature=0, ignore_eos=True)
    for number in range(rows):
        engine.submit(GenerationRequest(str(number), tuple(range(5, 37 + 7 * number)), endless))
    while engine.num_waiting:
        engine.step()
    for _ in range(rows + 4):
        engine.step()
    rates = []
    for _ in range(ROUNDS):
        start = perf_counter()
        tokens = sum(len(engine.step()) for _ in range(STEPS))
        rates.append(tokens / (perf_counter() - start))
    for number in range(rows):
        engine.cancel(str(number))
    while engine.has_work:
        engine.step()
    return max(rates)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
