"""Capture beside what PyTorch users have: hooks, nnsight, TransformerLens, each over its own plain step.

    scripts/bench/peers               # makes .venv-peers on first use, then measures

One GPT-2-shaped decoder with the same weights and tokens on both sides, a forward and a backward pass, activations and
gradients of every module. First the two sides' numbers are compared, then each round runs every step once, in turn;
the table gives the median of the rounds' ratios to that side's own plain step. The two sides run in processes of their
own, one at a time.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import actigrad
from actigrad.reduce import Summary
from actigrad.zoo import decoder

ROWS = {
    "actigrad": ("everything", "plain"),
    "actigrad, summaries": ("summaries", "plain"),
    "PyTorch hooks": ("hooks", "torch plain"),
    "nnsight": ("nnsight", "torch plain"),
    "TransformerLens": ("transformer_lens", "transformer_lens plain"),
}


class Torch:
    """The other process; `run(step)` gives its answer."""

    def __init__(self, python: Path, sizes: dict[str, int], weights: Path):
        script = Path(__file__).with_name("peers_torch.py")
        words = [python, script, json.dumps(sizes), weights]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, step: str) -> dict[str, Any]:
        """Run a step over there; raises RuntimeError when that process has ended."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(step + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the PyTorch side ended at {step!r}; its message stands above.")
        return json.loads(line)

    def close(self) -> None:
        """End it."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def make_steps(sizes: dict[str, int], samples: int) -> tuple[dict[str, Any], Any, np.ndarray]:
    """Our compiled steps, params and tokens."""
    apply, params = actigrad.observe(decoder.build(**sizes, scan=False))
    tokens = decoder.load(length=sizes["context"], samples=samples)["tokens"]

    def loss(params, tokens):
        logits = apply(params, tokens)
        return optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:]).mean()

    variants = {
        "plain": jax.value_and_grad(loss),
        "everything": actigrad.capture(loss, inputs=False),
        "summaries": actigrad.capture(loss, inputs=False, reduce=Summary()),
    }
    params, device_tokens = jax.device_put((params, tokens))
    steps = {name: jax.jit(step).lower(params, device_tokens).compile() for name, step in variants.items()}
    return {name: partial(step, params, device_tokens) for name, step in steps.items()}, params, tokens


def save_weights(path: Path, params: Any, tokens: np.ndarray) -> None:
    """By path, with the tokens."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    arrays = {jax.tree_util.keystr(keys, simple=True, separator="/"): np.asarray(leaf) for keys, leaf in leaves}
    np.savez(path, **arrays, tokens=tokens)


def largest_difference(frame: Any, theirs: Path) -> tuple[int, float]:
    """Over all arrays that both sides have: how many, and the largest |ours - theirs| over that array's maximum."""
    arrays = np.load(theirs)
    differences = []
    for key in arrays.files:
        quantity, path = key.split(":")
        ours, its = np.asarray(getattr(frame, quantity)[path]), arrays[key]
        differences.append(float(np.abs(ours.reshape(its.shape) - its).max() / np.abs(its).max()))
    return len(differences), max(differences)


def measure(
    ours: dict[str, Any], torch: Torch, rounds: int
) -> tuple[dict[str, list[float]], dict[str, tuple[int, int]]]:
    """Seconds a step and round; and how many arrays and bytes each step kept."""
    names = {name for row in ROWS.values() for name in row}
    seconds: dict[str, list[float]] = {name: [] for name in sorted(names)}
    kept = {}
    for _ in range(rounds + 1):
        for name in seconds:
            if name in ours:
                began = time.perf_counter()
                out = jax.block_until_ready(ours[name]())
                seconds[name].append(time.perf_counter() - began)
                arrays = jax.tree.leaves((out.activations, out.gradients)) if name != "plain" else []
                kept[name] = len(arrays), sum(one.nbytes for one in arrays)
            else:
                answer = torch.run(name)
                seconds[name].append(answer["seconds"])
                kept[name] = answer["arrays"], answer["bytes"]
    return {name: times[1:] for name, times in seconds.items()}, kept  # the first warms up


def main() -> None:
    """Read the words, compare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, default=Path(".venv-peers/bin/python"), help="that has the peers")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--samples", type=int, default=4)
    words = parser.parse_args()
    sizes = {"layers": words.layers, "width": words.width, "heads": max(1, words.width // 64)}
    sizes |= {"vocab": 256, "context": words.length}
    ours, params, tokens = make_steps(sizes, words.samples)
    with tempfile.TemporaryDirectory() as folder:
        weights, theirs = Path(folder) / "weights.npz", Path(folder) / "theirs.npz"
        save_weights(weights, params, tokens)
        torch = Torch(words.python, sizes, weights)
        torch.run(f"hooks > {theirs}")
        count, difference = largest_difference(ours["everything"](), theirs)
        seconds, kept = measure(ours, torch, words.rounds)
        torch.close()
    title = f"GPT-2-shaped decoder {words.layers}x{words.width}, {words.samples} x {words.length} tokens"
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title=title)
    for name in ("tool", "over its own plain step", "quartiles", "arrays kept", "MB kept"):
        table.add_column(name, justify="left" if name == "tool" else "right")
    for row, (name, base) in ROWS.items():
        ratios = [a / b for a, b in zip(seconds[name], seconds[base], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        arrays, size = kept[name]
        table.add_row(row, f"{middle:.2f}", f"{low:.2f} – {high:.2f}", str(arrays), f"{size / 1e6:.1f}")
    console = Console(width=120)
    console.print(table)
    console.print(
        f"{count} activations and gradients of both sides differ by at most {difference:.1e} of each array's maximum"
    )


if __name__ == "__main__":
    main()
