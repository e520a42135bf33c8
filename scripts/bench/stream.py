"""The streaming loop: its wall time over that of its slowest part, its throughput beside the disk's and others' ways.

    .venv/bin/python scripts/bench/stream.py                     # on the disk of the current folder
    .venv/bin/python scripts/bench/stream.py --folder /mnt/fast --rounds 9
    .venv/bin/python scripts/bench/stream.py --device-cores 1    # JAX computes on one core, the host has the others
    .venv/bin/python scripts/bench/stream.py --width 1024 --depth 32 --kept 4 --batch 512 --samples 8192

An accelerator leaves the processor alone; a CPU that is the device takes cores from the threads that copy and write.
With `--device-cores` each side has its own, as they have it there. The last line is a job whose model takes longer than
keeping what is wanted of it, as most are: of 32 layers, four are kept.

Activations and gradients of an MLP's layers are kept whole, uncompressed: all, or the first `--kept`. Each round does
everything once, in turn:

    capture     the captured step of every batch, dispatched ahead; nothing is copied
    copy        frames that are there already: to the host, into blocks, nowhere
    write       blocks that are there already, through the writer: checksums, files, syncs, journal
    loop        all three, as `actigrad run` does
    raw         the same bytes into one file, one after another, synced at the end
    append_dim, safetensors, npy     capture, and each batch written as people do today; synced at the end

Last comes the peak of resident memory of runs in processes of their own, of so many samples and 20 times as many.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from flax import nnx
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save_file

from actigrad.config.records import Config
from actigrad.runs.job import Job, load
from actigrad.runs.record import StepCapture
from actigrad.runs.rows import StepWriter
from actigrad.runs.run import run
from actigrad.storage import grid, writer
from actigrad.storage.create import create_store
from actigrad.storage.grid import blocks
from actigrad.storage.journal import Journal
from actigrad.storage.places import Folder
from actigrad.storage.writer import Writer


class Perceptron(nnx.Module):
    """Linear layers and ReLUs of one width."""

    def __init__(self, width: int, depth: int, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(depth)])

    def __call__(self, x: Any) -> Any:
        """The last layer's output."""
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x


def build(*, seed: int, width: int, depth: int) -> Perceptron:
    """The config's model."""
    return Perceptron(width, depth, nnx.Rngs(seed))


def data(*, samples: int, width: int) -> dict[str, np.ndarray]:
    """The config's data: one row, as often as there are samples, so that they take no memory."""
    row = np.random.default_rng(0).normal(size=(1, width)).astype(np.float32)
    return {"x": np.broadcast_to(row, (samples, width))}


def loss(apply: Callable[..., Any], params: Any, batch: Any) -> Any:
    """One value a sample."""
    return jnp.square(apply(params, batch["x"])).mean(axis=-1)


@dataclass
class Kept:
    """A sink that keeps what it gets, or forgets it."""

    keep: bool
    puts: list[tuple[str, Any, np.ndarray]] = field(default_factory=list)

    def put(self, array: str, region: Any, block: np.ndarray) -> None:
        """One block."""
        if self.keep:
            self.puts.append((array, region, np.array(block)))

    def commit(self, step: int, rows: int, state: Any) -> None:
        """Nothing."""


class Bench:
    """One job, and each part of its loop alone."""

    def __init__(self, job: Job, folder: Path):
        self.job, self.folder, self.capture = job, folder, StepCapture(job)
        self.params, self.n = jax.device_put(job.params), len(job.rows)
        self.step = self.capture.captures[True]
        self.batches = [job.batch(*span) for span in blocks(self.n, job.config.data.batch_size)]
        blocks_of = Kept(keep=True)
        self.capture.record(blocks_of, 0, self.params, self.params)
        self.puts = blocks_of.puts
        self.nbytes = sum(block.nbytes for _, _, block in self.puts)

    def measure(self) -> dict[str, float]:
        """Seconds of everything once."""
        ways = ("capture", "copy", "write", "loop", "raw", "append_dim", "safetensors", "npy")
        return {name: self._timed(getattr(self, f"do_{name}")) for name in ways}

    def _timed(self, way: Callable[[Path], Any]) -> float:
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            ready = getattr(self, f"ready_{way.__name__.removeprefix('do_')}", lambda folder: folder)(Path(name))
            began = time.perf_counter()
            way(ready)
            return time.perf_counter() - began

    def do_capture(self, folder: Path) -> None:
        """Two batches under way, as in the loop."""
        before = None
        for batch in self.batches:
            now = self.step(self.params, batch)
            if before is not None:
                jax.block_until_ready(before)
            before = now
        jax.block_until_ready(before)

    def ready_copy(self, folder: Path) -> Any:
        """A frame."""
        return jax.block_until_ready(self.step(self.params, self.batches[0]))

    def do_copy(self, brought: Any) -> None:
        """The same frame again and again."""
        write = StepWriter(Kept(keep=False), self.capture.template, (0,), 0)
        size = len(self.batches[0]["x"])
        for i, batch in enumerate(self.batches):
            rows = {name: jnp.array(values, copy=True) for name, values in brought.rows.items() if write.has(name)}
            self.capture.put_rows(write, batch, rows, i * size)

    def ready_write(self, folder: Path) -> Writer:
        """An empty store."""
        path = folder / "run.zarr"
        create_store(path, self.capture.template, {"actigrad_schema": 2})
        return Writer(path, Journal(path))

    ready_loop = ready_write

    def do_write(self, store: Writer) -> None:
        """The blocks in their order, one commit."""
        for put in self.puts:
            store.put(*put)
        store.commit(0, self.n)
        store.flush()

    def do_loop(self, store: Writer) -> None:
        """As the run does."""
        self.capture.record(store, 0, self.params, self.params)
        store.flush()

    def do_raw(self, folder: Path) -> None:
        """One file."""
        with (folder / "raw").open("wb") as file:
            for _, _, block in self.puts:
                file.write(memoryview(np.ascontiguousarray(block)).cast("B"))
        Folder(folder).settle()

    def do_append_dim(self, folder: Path) -> None:
        """A dataset that grows."""
        encoding: Any = None
        for arrays in self._frames():
            dims = {name: ("sample", *(f"{name}_{i}" for i in range(1, value.ndim))) for name, value in arrays.items()}
            dataset = xarray.Dataset({name: (dims[name], value) for name, value in arrays.items()})
            grows: Any = {"append_dim": "sample"} if encoding else {"mode": "w"}
            encoding = encoding or {name: {"compressors": None, "chunks": v.shape} for name, v in arrays.items()}
            started = "append_dim" in grows
            dataset.to_zarr(folder / "x.zarr", consolidated=False, encoding=None if started else encoding, **grows)
        Folder(folder).settle()

    def do_safetensors(self, folder: Path) -> None:
        """A file a batch."""
        for i, arrays in enumerate(self._frames()):
            save_file(arrays, folder / f"{i}.safetensors")
        Folder(folder).settle()

    def do_npy(self, folder: Path) -> None:
        """A file a batch and array."""
        for i, arrays in enumerate(self._frames()):
            for name, values in arrays.items():
                np.save(folder / f"{i}.{name}.npy", values)
        Folder(folder).settle()

    def _frames(self) -> Any:
        for batch in self.batches:
            rows = self.step(self.params, batch).rows
            yield {name.replace("/", "."): np.asarray(values) for name, values in rows.items()}


def make_job(words: argparse.Namespace, samples: int, folder: Path) -> Job:
    """The run of so many samples."""
    return load(Config.model_validate({
        "model": {"factory": "stream:build", "options": {"width": words.width, "depth": words.depth}},
        "data": {"factory": "stream:data", "batch_size": words.batch,
                 "options": {"samples": samples, "width": words.width}},
        "loss": "stream:loss",
        "capture": [{"sites": [f"layers/{i}" for i in range(words.kept or words.depth)], "keep": "full"}],
        "inputs": {"keep": "none"},
        "parameters": {"keep": "none"},
        "store": {"path": str(folder / "run.zarr")},
    }))  # fmt: skip


def peak_rss(words: argparse.Namespace, times: int) -> float:
    """MB that a run of `times` as many samples holds at most, in a process of its own."""
    options = ["--width", words.width, "--depth", words.depth, "--batch", words.batch, "--folder", words.folder]
    options += ["--kept", words.kept] if words.kept else []
    command = [sys.executable, __file__, "--peak", str(words.samples * times), *map(str, options)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def give_device(cores: int) -> None:
    """Let JAX compute on so many cores, and everything else on the others."""
    known = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, known[:cores])
    jax.block_until_ready(jax.jit(jnp.add)(1, 1))  # its threads are made now, and keep what they were given
    os.sched_setaffinity(0, known[cores:])


def summarise(rounds: list[dict[str, float]], ratio: Callable[[dict[str, float]], float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile of a ratio."""
    values = [ratio(one) for one in rounds]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return low, middle, high


def peak_mb() -> float:
    """Most memory this process ever held. `getrusage` would count that of the process that started it, too."""
    (kib,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(kib) * 1024 / 1e6


def main() -> None:
    """Read the words, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=32768)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--kept", type=int, help="layers that are kept whole; by default all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--quick", action="store_true", help="tiny, measures nothing")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--peak", type=int, help="only run so many samples, and tell the peak of resident memory in MB")
    parser.add_argument("--segment", type=int, default=256, help="MiB between two commits, and in the queue (256)")
    parser.add_argument("--device-cores", type=int, help="cores for JAX alone; by default all are everybody's")
    words = parser.parse_args()
    if words.device_cores:
        give_device(words.device_cores)
    if words.quick:
        words.samples, words.batch, words.width, words.depth, words.rounds = 64, 16, 32, 2, 2
    with tempfile.TemporaryDirectory(dir=words.folder) as name:
        grid.SEGMENT_BYTES = writer.QUEUE_BYTES = words.segment * 2**20
        if words.peak:
            run(make_job(words, words.peak, Path(name)))
            print(peak_mb())
            return
        bench = Bench(make_job(words, words.samples, Path(name)), Path(name))
        bench.measure()
        rounds = [bench.measure() for _ in range(words.rounds)]
    figures = print_results(bench.nbytes, rounds)
    if not words.quick:
        small, large = peak_rss(words, 1), peak_rss(words, 20)
        figures["memory"] = [large / small] * 3
        print(f"peak memory: {small:.0f} MB, and {large:.0f} MB of 20 times the samples: {large / small:.2f}")
    if words.json:
        words.json.write_text(json.dumps(figures, indent=1))


def print_results(nbytes: int, rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Two tables; the ratios by name."""
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    table.title = f"{nbytes / 1e6:.0f} MB, {jax.devices()[0].device_kind}, medians of {len(rounds)} rounds"
    for name in ("", "seconds", "GB/s"):
        table.add_column(name, justify="right" if name else "left")
    for name in rounds[0]:
        seconds = statistics.median(one[name] for one in rounds)
        table.add_row(name, f"{seconds:.3f}", f"{nbytes / seconds / 1e9:.2f}")
    Console(width=120).print(table)
    ratios: dict[str, Any] = {
        "loop over its slowest part": lambda s: s["loop"] / max(s["capture"], s["copy"], s["write"]),
        "loop over the sum of its parts": lambda s: s["loop"] / (s["capture"] + s["copy"] + s["write"]),
        "writer's throughput over raw": lambda s: s["raw"] / s["write"],
        "append_dim over loop": lambda s: s["append_dim"] / s["loop"],
        "safetensors over loop": lambda s: s["safetensors"] / s["loop"],
        "npy over loop": lambda s: s["npy"] / s["loop"],
    }
    figures = {name: summarise(rounds, ratio) for name, ratio in ratios.items()}
    for name, (low, middle, high) in figures.items():
        print(f"{name:<32} {middle:.2f}  ({low:.2f} – {high:.2f})")
    return figures


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
