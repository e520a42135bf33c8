"""What capture costs: its time, compile time and temporary memory, as ratios to the plain jitted value_and_grad.

    .venv/bin/python scripts/bench/capture.py                       # every model, a few minutes
    .venv/bin/python scripts/bench/capture.py --models mlp --rounds 5

Absolute times on a shared machine are noise, ratios of things measured in turn in one run are not: each round runs the
plain step and every variant once, and the table gives the median of the rounds' ratios with their quartiles.

    (a) everything        activations and gradients of every site, and parameter gradients, returned
    (b) summaries         of the same, a `Summary` of each (mean, rms, std, extremes, zeros, non-finite a neuron)
    (c) no gradients      activations of every site alone, over the plain jitted forward pass
    (d) summaries apart   (a), then one jitted `Summary` a shape: it compiles less, and holds every array at once
    (e) one sum           (b) with a single sum a neuron instead of a `Summary`: what XLA asks for any reduction at all
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

import actigrad
from actigrad.reduce import Summary
from actigrad.zoo import decoder, digits

Step = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Case:
    """A model ready to be measured."""

    name: str
    loss: Callable[..., Any]
    params: Any
    batch: Any


@dataclass(frozen=True)
class Result:
    """Ratios of one variant to its plain step; the medians and quartiles of the rounds."""

    model: str
    variant: str
    time: float
    time_low: float
    time_high: float
    compile_time: float
    temporary: float
    plain_temporary: float
    """MB"""


@dataclass(frozen=True)
class OneSum:
    """The least that a reduction can be."""

    def chunk(self, x: jax.Array, dims: tuple[str, ...]) -> jax.Array:
        """Over all but neurons."""
        return jnp.sum(x, axis=tuple(i for i, dim in enumerate(dims) if dim not in ("neuron", "layer")))

    def combine(self, a: Any, b: Any) -> Any:
        """Not used here."""
        return a + b

    def finalize(self, state: Any) -> Any:
        """Not used here."""
        return state


def make_mlp(width: int, depth: int, samples: int) -> Case:
    """Linear layers and ReLUs of one width; the mean square of the output."""

    class Perceptron(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(depth)])

        def __call__(self, x):
            for layer in self.layers:
                x = nnx.relu(layer(x))
            return x

    apply, params = actigrad.observe(Perceptron(nnx.Rngs(0)))
    loss = lambda params, batch: jnp.square(apply(params, batch["x"])).mean(axis=-1)
    return Case(f"MLP {depth}x{width}", loss, params, {"x": _normal(samples, width)})


def make_cnn(width: int, size: int, samples: int) -> Case:
    """The digits' network, wider, on larger images."""

    class Wide(digits.DigitsCNN):
        def __init__(self, rngs):
            super().__init__(width, rngs=rngs)
            self.head = digits.Head(2 * width * (size // 4) ** 2, 4 * width, 10, rngs=rngs)

        def __call__(self, image):
            x = self.pool2(self.block2(self.pool1(self.block1(image))))
            return self.head(x.reshape(x.shape[0], -1))

    apply, params = actigrad.observe(Wide(nnx.Rngs(0)))
    batch = {"image": _normal(samples, size, size, 1), "label": np.arange(samples, dtype=np.int32) % 10}
    return Case(f"CNN {width}, {size}x{size}", lambda *args: digits.loss(apply, *args)[0], params, batch)


def make_decoder(width: int, length: int, samples: int, *, layers: int, scan: bool, remat: bool) -> Case:
    """GPT-2's shape; 12 layers, as its smallest has."""
    model = decoder.build(layers=layers, width=width, heads=width // 64 or 1, context=length, scan=scan, remat=remat)
    apply, params = actigrad.observe(model)
    tokens = np.random.default_rng(0).integers(0, 256, (samples, length + 1)).astype(np.int32)
    kind = ("scanned" if scan else "unrolled") + (", remat" if remat else "")
    batch = {"tokens": tokens[:, :-1], "next": tokens[:, 1:]}
    return Case(f"decoder {layers}x{width}, {kind}", partial(decoder.loss, apply), params, batch)


def make_cases(quick: bool) -> dict[str, Callable[[], Case]]:
    """All models by short name; quick ones are for tests, in which nothing is measured."""
    width, length, layers = (64, 16, 2) if quick else (512, 128, 12)
    gpt = partial(make_decoder, width, length, 2 if quick else 4, layers=layers)
    return {
        "mlp": lambda: make_mlp(32, 2, 16) if quick else make_mlp(1024, 8, 1024),
        "cnn": lambda: make_cnn(4, 8, 4) if quick else make_cnn(64, 32, 128),
        "unrolled": lambda: gpt(scan=False, remat=False),
        "scanned": lambda: gpt(scan=True, remat=False),
        "unrolled-remat": lambda: gpt(scan=False, remat=True),
        "scanned-remat": lambda: gpt(scan=True, remat=True),
    }


def make_steps(case: Case) -> dict[str, tuple[Step, str]]:
    """Every step by name, with the plain one that it is compared to."""
    mean = lambda params, batch: jnp.mean(case.loss(params, batch))
    differentiable = lambda params, batch: jax.value_and_grad(mean, allow_int=True)(params, batch)
    capture = partial(actigrad.capture, mean, inputs=False)
    return {
        "plain step": (differentiable, ""),
        "plain forward": (mean, ""),
        "everything": (capture(), "plain step"),
        "summaries": (capture(reduce=Summary()), "plain step"),
        "no gradients": (capture(gradients=False, parameters=False), "plain forward"),
        "summaries apart": (capture(), "plain step"),
        "one sum": (capture(reduce=OneSum()), "plain step"),
    }


def measure(case: Case, rounds: int, compiles: int) -> Iterator[Result]:
    """Each round runs every step once, so that what slows the machine slows all."""
    steps = make_steps(case)
    make = lambda name: _make_apart(steps[name][0], case) if name == "summaries apart" else _make(steps[name][0], case)
    made = [{name: make(name) for name in steps} for _ in range(compiles)]
    last, params, batch = made[-1], *jax.device_put((case.params, case.batch))
    for one in last.values():
        jax.block_until_ready(one.run(params, batch))
    times = []
    for _ in range(rounds):
        times.append({})
        for name, one in last.items():
            began = time.perf_counter()
            jax.block_until_ready(one.run(params, batch))
            times[-1][name] = time.perf_counter() - began
    for name, (_, plain) in steps.items():
        if plain:
            ratios = [one[name] / one[plain] for one in times]
            low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if rounds > 1 else ratios * 3
            compiling = statistics.median(one[name].seconds / one[plain].seconds for one in made)
            base = last[plain].temporary
            yield Result(case.name, name, middle, low, high, compiling, last[name].temporary / max(1, base), base / 1e6)


@dataclass(frozen=True)
class Made:
    """A compiled step, the seconds from Python to machine code, and the bytes that it needs besides what it returns."""

    run: Step
    seconds: float
    temporary: int


def _make(step: Step, case: Case) -> Made:
    jax.clear_caches()
    began = time.perf_counter()
    compiled = jax.jit(lambda params, batch: step(params, batch)).lower(case.params, case.batch).compile()
    return Made(compiled, time.perf_counter() - began, compiled.memory_analysis().temp_size_in_bytes)


def _make_apart(step: Step, case: Case) -> Made:
    """What `step` returns is reduced after it, by one program a shape."""
    whole = _make(step, case)
    frame = whole.run(*jax.device_put((case.params, case.batch)))
    dims = {site.path: site.dims for site in frame.sites}
    arrays = lambda frame: [(path, x) for kind in (frame.activations, frame.gradients) for path, x in kind.items()]
    began = time.perf_counter()
    reduce = {
        (x.shape, dims[path]): jax.jit(partial(Summary().chunk, dims=dims[path])).lower(x).compile()
        for path, x in {(x.shape, dims[path]): (path, x) for path, x in arrays(frame)}.values()
    }
    seconds = time.perf_counter() - began
    run = lambda *args: [reduce[x.shape, dims[path]](x) for path, x in arrays(whole.run(*args))]
    held = sum(x.nbytes for _, x in arrays(frame))
    return Made(run, whole.seconds + seconds, whole.temporary + held)


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def print_results(results: list[Result]) -> None:
    """One row a model and variant."""
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    table.title = f"capture over the plain step, on {jax.devices()[0].device_kind}, jax {jax.__version__}"
    for name in ("model", "variant"):
        table.add_column(name)
    for name in ("time", "quartiles", "compile time", "temporary memory", "of MB"):
        table.add_column(name, justify="right")
    for one in results:
        spread = f"{one.time_low:.2f} – {one.time_high:.2f}"
        memory = f"{one.temporary:.2f}" if one.plain_temporary >= 1 else "–"
        table.add_row(
            one.model, one.variant, f"{one.time:.2f}", spread, f"{one.compile_time:.2f}", memory,
            f"{one.plain_temporary:.1f}",
        )  # fmt: skip
    Console(width=120).print(table)


def main() -> None:
    """Read the words, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(make_cases(True)), default=list(make_cases(True)))
    parser.add_argument("--rounds", type=int, default=15, help="how often each step is timed (15)")
    parser.add_argument("--compiles", type=int, default=3, help="how often each is compiled (3)")
    parser.add_argument("--quick", action="store_true", help="tiny models, which measure nothing")
    parser.add_argument("--json", type=Path, help="also write the ratios to this file")
    words = parser.parse_args()
    results: list[Result] = []
    for name in words.models:
        results += measure(make_cases(words.quick)[name](), words.rounds, words.compiles)
    print_results(results)
    if words.json:
        words.json.write_text(json.dumps([asdict(one) for one in results], indent=1))


if __name__ == "__main__":
    main()
