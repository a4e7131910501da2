"""Seconds per decode step of a model so narrow that arithmetic costs nothing: what is left is the engine's own time.

    .venv/bin/python scripts/benchmark/host_time.py [--rows 1,8,16] [--peer PYTHON]

PYTHON is the interpreter of an environment with mlx-lm (pip install mlx-lm "mlx[cpu]"): its BatchGenerator is measured
on the same weights, in turn.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

ROUNDS, STEPS, LAYERS = 5, 60, 30
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}


def write_model(folder: Path) -> None:
    """A random Llama of `LAYERS` layers and hardly any width."""
    import mlx.core as mx

    tensors = {"model.embed_tokens.weight": mx.random.normal((64, 16)), "model.norm.weight": mx.ones((16,))}
    shapes = {"q_proj": (16, 16), "k_proj": (8, 16), "v_proj": (8, 16), "o_proj": (16, 16)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        tensors |= {f"{prefix}.self_attn.{name}.weight": mx.random.normal(shape) for name, shape in shapes.items()}
        for name in ("gate_proj", "up_proj", "down_proj"):
            tensors[f"{prefix}.mlp.{name}.weight"] = mx.random.normal((16, 16))
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{name}.weight"] = mx.ones((16,))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    (folder / "config.json").write_text(json.dumps(CONFIG))


def ours(folder: Path, rows: list[int]) -> list[float]:
    """Milliseconds per step of our engine, the median of `STEPS` steps."""
    from engine import Engine
    from engine.requests import GenerationRequest
    from engine.sampling.params import SamplingParams
    from engine.settings import EngineSettings

    found = []
    engine = Engine(folder, EngineSettings(max_rows=max(rows), prefix_bytes=0))
    for count in rows:
        sampling = SamplingParams(max_tokens=STEPS + 20, temperature=0, ignore_eos=True)
        for number in range(count):
            engine.submit(GenerationRequest(str(number), (number + 1, 2, 3), sampling))
        found.append(_per_step(engine.step, lambda engine=engine: engine.has_work))
    return found


def theirs(folder: Path, rows: list[int]) -> list[float]:
    """The same of mlx-lm's BatchGenerator."""
    import mlx.core as mx
    from mlx_lm.generate import BatchGenerator
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.Device(mx.cpu))
    model, _ = load_model(folder)
    found = []
    for count in rows:
        generator = BatchGenerator(model, max_tokens=STEPS + 20)
        generator.insert([[number + 1, 2, 3] for number in range(count)])
        found.append(_per_step(generator.next, lambda: True))
        generator.close()
    return found


def _per_step(step, more) -> float:
    seconds = []
    for _ in range(10):
        step()
    for _ in range(STEPS):
        start = perf_counter()
        step()
        seconds.append(perf_counter() - start)
    while more() and len(seconds) < 4 * STEPS:
        step()
        seconds.append(0.0)
    return 1000 * statistics.median(seconds[:STEPS])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1,8,16")
    parser.add_argument("--peer", metavar="PYTHON")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    rows = [int(each) for each in given.rows.split(",")]
    if given.side:
        print(json.dumps({"ours": ours, "theirs": theirs}[given.side](given.model, rows)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        sides = {"ours": sys.executable} | ({"theirs": given.peer} if given.peer else {})
        runs: dict[str, list[list[float]]] = {side: [] for side in sides}
        for _ in range(ROUNDS):
            for side, python in sides.items():
                command = [python, __file__, "--side", side, "--model", folder, "--rows", given.rows]
                runs[side].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
        for place, count in enumerate(rows):
            medians = {side: statistics.median(run[place] for run in runs[side]) for side in sides}
            parts = [f"{side} {value:6.2f} ms" for side, value in medians.items()]
            if len(medians) == 2:
                parts.append(f"ratio {medians['ours'] / medians['theirs']:.2f}")
            print(f"{count:3} rows  " + "   ".join(parts), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent.parent))
    main()
