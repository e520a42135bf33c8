"""What a Recorder costs: the share of training time that recording adds, at every 10th and every 100th step.

    .venv/bin/python scripts/bench/recorder.py                      # both models, a quarter of an hour
    .venv/bin/python scripts/bench/recorder.py --models digits --rounds 3 --steps 200

Absolute times on a shared machine are noise, ratios of things measured in turn in one run are not: each round trains
the same model for so many steps without a Recorder and with each, in an order of its own, and the table gives the
median of the rounds' ratios with their quartiles. `time` is what a person waits, `CPU` what all threads work together,
which other people's work on the machine disturbs less. Writing is told apart, because a round is short: `writing` is
the seconds of a write over the pause that a Recorder makes after it, as if the training stood still meanwhile. What
happens once in a training, compiling above all, is `first record`.
"""

import argparse
import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import actigrad
from actigrad.runs.scribe import Scribe, pause_after
from actigrad.zoo import decoder, digits


@dataclass
class Training:
    """A training that can go on."""

    loss: Callable[..., Any]
    update: Callable[..., Any]
    batches: list[Any]
    params: Any
    state: Any
    step: int = 0

    def run(self, steps: int, record: Callable[..., Any] | None) -> None:
        """So many more steps; the host is one step ahead of the device, as where a loss is looked at."""
        before = None
        for _ in range(steps):
            self.step += 1
            batch = self.batches[self.step % len(self.batches)]
            self.params, self.state, loss = self.update(self.params, self.state, batch)
            if record is not None:
                record(self.step, self.params, batch)
            if before is not None:
                before.block_until_ready()
            before = loss
        jax.block_until_ready(self.params)


@dataclass(frozen=True)
class Result:
    """What one Recorder adds, as shares of the training without it; the medians and quartiles of the rounds."""

    model: str
    every: int
    time: float
    time_low: float
    time_high: float
    cpu: float
    writing: float
    first: float
    """Seconds of the first recorded step, once in a training."""
    step: float
    """Milliseconds of a step without recording."""
    bytes: int
    """On the disk, a recorded step."""


def make_training(name: str, quick: bool) -> Training:
    """The shipped models at their shipped sizes; donated params, Adam, batches on the device."""
    if name == "digits":
        model: Any = digits.build(width=8 if quick else 32)
        data, size, module = digits.load(), 128, digits
    else:
        model = decoder.build(layers=2, width=16, heads=2) if quick else decoder.build(layers=4, width=128, heads=4)
        data, size = decoder.load(length=8 if quick else 64), 32
        module: Any = decoder
    apply, params = actigrad.observe(model)
    loss = partial(module.loss, apply)
    optimizer = optax.adam(1e-3)

    def mean(params: Any, batch: Any) -> jax.Array:
        value = loss(params, batch)
        return (value[0] if isinstance(value, tuple) else value).mean()

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(params: Any, state: Any, batch: Any) -> Any:
        value, gradient = jax.value_and_grad(mean)(params, batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    draw = np.random.default_rng(0)
    rows = [draw.choice(len(data["split"]), size, replace=False) for _ in range(8)]
    batches = [jax.device_put({key: values[one] for key, values in data.items()}) for one in rows]
    params = jax.tree.map(lambda leaf: leaf.copy(), params)
    return Training(loss, update, batches, params, optimizer.init(params))


def measure(name: str, everies: list[int], rounds: int, steps: int, quick: bool, folder: Path) -> list[Result]:
    """Each round trains in every way, so that what slows the machine slows all."""
    training = make_training(name, quick)
    training.run(20, None)
    with ExitStack() as stack:
        make = lambda every: actigrad.Recorder(folder / f"{name}-{every}.zarr", training.loss, every=every)
        recorders = {every: stack.enter_context(make(every)) for every in everies}
        first = {every: _first_record(training, recorder, every) for every, recorder in recorders.items()}
        times: list[dict[int, tuple[float, float]]] = []
        for number in range(rounds):
            times.append({})
            for every in random.Random(number).sample([0, *everies], len(everies) + 1):
                times[-1][every] = _time(training, steps, recorders.get(every))
        writing = {every: _writing(recorder) for every, recorder in recorders.items()}
    return [
        Result(
            name, every, *_spread([one[every][0] / one[0][0] - 1 for one in times]),
            statistics.median(one[every][1] / one[0][1] - 1 for one in times), writing[every], first[every],
            1e3 * statistics.median(one[0][0] for one in times) / steps,
            _size(folder / f"{name}-{every}.zarr"),
        )
        for every in everies
    ]  # fmt: skip


def _time(training: Training, steps: int, recorder: actigrad.Recorder | None) -> tuple[float, float]:
    """Seconds and seconds of work until all of these steps are trained and captured."""
    began, worked = time.perf_counter(), time.process_time()
    written = _scribe(recorder).seconds if recorder else 0.0
    training.run(steps, recorder)
    worked = time.process_time() - worked
    if recorder:
        recorder.flush()
        written = _scribe(recorder).seconds - written
    return time.perf_counter() - began - written, worked


def _writing(recorder: actigrad.Recorder) -> float:
    """The share of time in which something is written."""
    seconds = _scribe(recorder).seconds / _scribe(recorder).writes
    return seconds / pause_after(seconds)


def _scribe(recorder: actigrad.Recorder) -> Scribe:
    assert recorder._session is not None
    return recorder._session.scribe


def _first_record(training: Training, recorder: actigrad.Recorder, every: int) -> float:
    """Train until something was recorded and written; the seconds that the Recorder took."""
    taken = 0.0
    while True:
        training.run(1, None)
        began = time.perf_counter()
        recorder(training.step, training.params, training.batches[0])
        recorder.flush()
        taken += time.perf_counter() - began
        if training.step % every == 0:
            return taken


def _spread(ratios: list[float]) -> tuple[float, float, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return middle, low, high


def _size(store: Path) -> int:
    files = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    return files // len(actigrad.open_store(store)["samples/step"])


def print_results(results: list[Result]) -> None:
    """One row a model and rhythm."""
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    table.title = f"what recording adds, on {jax.devices()[0].device_kind}, jax {jax.__version__}"
    for column in ("model", "every", "time", "quartiles", "CPU", "writing", "a step", "first record", "disk a record"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for one in results:
        table.add_row(
            one.model, str(one.every), f"{one.time:.1%}", f"{one.time_low:.1%} – {one.time_high:.1%}",
            f"{one.cpu:.1%}", f"{one.writing:.1%}", f"{one.step:.1f} ms", f"{one.first:.1f} s",
            f"{one.bytes / 1e3:.0f} kB",
        )  # fmt: skip
    Console(width=120).print(table)


def main() -> None:
    """Read the words, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=["digits", "decoder"], default=["digits", "decoder"])
    parser.add_argument("--every", nargs="+", type=int, default=[10, 100])
    parser.add_argument("--rounds", type=int, default=7, help="how often each is trained (7)")
    parser.add_argument("--steps", type=int, default=500, help="steps a round (500)")
    parser.add_argument("--quick", action="store_true", help="tiny models, which measure nothing")
    parser.add_argument("--json", type=Path, help="also write the shares to this file")
    words = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        results: list[Result] = []
        for name in words.models:
            results += measure(name, words.every, words.rounds, words.steps, words.quick, folder)
            print_results(results[-len(words.every) :])
    finally:
        shutil.rmtree(folder)
    if words.json:
        words.json.write_text(json.dumps([asdict(one) for one in results], indent=1))


if __name__ == "__main__":
    main()
