"""What was pruned, as people and programs read it."""

from dataclasses import asdict

import msgspec

from engine.compression.prune import Pruned
from server.sizes import megabytes
from server.terminal.output import say


def show(pruned: Pruned, name: str, output: str) -> None:
    """A few lines: what went, and what is left."""
    if pruned.influence:
        removed = set(pruned.removed_layers)
        say("Influence of each layer (1 - cosine of what goes in and what comes out):")
        for layer, influence in enumerate(pruned.influence):
            say(f"  {layer:3d}  {influence:.4f}{'  removed' if layer in removed else ''}")
        numbers = ", ".join(map(str, pruned.removed_layers)) or "none"
        say(f"Layers: {pruned.num_layers} to {pruned.num_layers - len(removed)}, without {numbers}.")
    if pruned.inner_size is not None:
        say(f"Neurons of each feed-forward layer: {pruned.inner_size[0]} to {pruned.inner_size[1]}.")
    if pruned.kv_heads is not None:
        say(f"Groups of heads in each layer: {pruned.kv_heads[0]} to {pruned.kv_heads[1]}.")
    parameters, sizes = pruned.num_parameters, pruned.num_bytes
    say(f"Parameters: {parameters[0] / 1e6:,.1f} M to {parameters[1] / 1e6:,.1f} M.")
    say(f"{output} is here: {megabytes(sizes[1])}; {name} has {megabytes(sizes[0])}.")


def as_json_text(pruned: Pruned, output: str) -> str:
    """Everything that is known of it. Pairs are before and after; sizes in bytes."""
    value = asdict(pruned) | {"output": output}
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
