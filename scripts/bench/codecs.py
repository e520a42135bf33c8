"""What each kind of array compresses to and what that costs, on trained models of the zoo: the tables of docs/store.md.

    .venv/bin/python scripts/bench/codecs.py                        # some minutes
    .venv/bin/python scripts/bench/codecs.py --steps 20 --samples 64

Codecs by kind: the ratio is raw bytes over stored bytes, checksums included. Shards: what reading one sample, one
neuron and all of an 8 MiB block takes, by how many chunks it is cut into. Speeds count the seconds of the processor and
not those of the clock, so that a busy machine changes them little; each is the median of several rounds. The codecs
marked with * are what `codec: auto` takes.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import zarr
from rich.console import Console
from rich.table import Table
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

import actigrad
from actigrad.frameworks import observe
from actigrad.storage.create import CODECS
from actigrad.zoo import decoder, digits

CANDIDATES: dict[str, Callable[[], list[Any]]] = {
    "none + crc32c": CODECS["plain"],
    "zstd 1": CODECS["sparse"],
    "zstd 5": lambda: [ZstdCodec(level=5, checksum=True)],
    "lz4 shuffle": CODECS["rounded"],
    "lz4 bitshuffle": lambda: [BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=4), Crc32cCodec()],
    "zstd 1 shuffle": lambda: [BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=4), Crc32cCodec()],
    "gzip 1": lambda: [GzipCodec(level=1), Crc32cCodec()],
}
BLOCK = 2**21


def main() -> None:
    """Train, capture, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="training updates before capture")
    parser.add_argument("--samples", type=int, default=512, help="how many samples to capture")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    table = Table("array", "zeros", *CANDIDATES, title="raw / stored · encode · decode, MB a second of one core")
    arrays = dict(captured(asked.steps, asked.samples))
    for name, values in arrays.items():
        chosen = choice(name, values)
        cells = []
        for make in CANDIDATES.values():
            ratio, encode, decode = measure(values, make(), asked.rounds)
            cells.append(f"{ratio:.2f} · {encode:.0f} · {decode:.0f}" + " *" * (make is CODECS[chosen]))
        table.add_row(name, f"{np.mean(values == 0):.0%}", *cells)
    Console(width=180).print(table)
    Console(width=120).print(shards(next(iter(arrays.values())), asked.rounds))


def choice(name: str, values: np.ndarray) -> str:
    """What `codec: auto` takes."""
    if "summary" in name:
        return "sparse"
    return "rounded" if "bfloat16" in name else "sparse" if np.mean(values == 0) >= 0.3 else "plain"


def captured(steps: int, samples: int) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays as a store has them, about `BLOCK` values each."""
    for model, wanted in (
        (digits, {"ReLU activation, digits": ("block1/relu", "activations"),
                  "its gradient": ("block1/relu", "gradients"),
                  "conv activation, digits": ("block2/conv", "activations")}),
        (decoder, {"residual stream, decoder": ("resid", "activations"),
                   "its gradient, decoder": ("resid", "gradients"),
                   "attention, decoder": ("attn", "activations")}),
    ):  # fmt: skip
        frame = trained(model, steps, samples)
        for name, (site, quantity) in wanted.items():
            values = largest(getattr(frame, quantity), site)
            yield name, values
            if model is decoder or "conv" in name:
                yield f"{name}, bfloat16", values.astype(jax.numpy.bfloat16).astype(np.float32)
    yield "summary of 64 neurons, 16 steps", summaries()


def trained(model: Any, steps: int, samples: int) -> Any:
    """One captured frame of a trained model."""
    data = model.load()
    apply, params = observe(model.build(seed=0))
    bound = lambda params, batch: model.loss(apply, params, batch)
    for _, trained in model.train(bound, params, data, steps=steps, seed=0):
        params = trained
    batch = {name: values[:samples] for name, values in data.items()}
    return jax.device_get(actigrad.capture(bound)(params, batch))


def largest(arrays: dict[str, np.ndarray], like: str) -> np.ndarray:
    """The largest array of the sites whose path holds `like`, or of all where none does."""
    some = {path: value for path, value in arrays.items() if like in path} or arrays
    values = np.asarray(max(some.values(), key=np.size), np.float32)
    return np.ascontiguousarray(values.reshape(values.shape[0], -1))


def summaries() -> np.ndarray:
    """What a summary is like: eight statistics of 64 neurons, at sixteen steps of a training that moves them slowly."""
    random = np.random.default_rng(0)
    return np.cumsum(random.normal(scale=0.02, size=(16, 8 * 64)), axis=0, dtype=np.float32) + random.normal(
        size=8 * 64
    )


def measure(values: np.ndarray, codecs: list[Any], rounds: int) -> tuple[float, float, float]:
    """The ratio, and MB a second to encode and to decode."""
    rows = max(1, min(len(values), BLOCK // values[0].size))
    block = np.ascontiguousarray(values[:rows], np.float32)
    store: dict[str, Any] = {}
    array = zarr.create_array(
        store, shape=block.shape, chunks=block.shape, dtype="f4", compressors=codecs,
        config={"write_empty_chunks": True}, fill_value=np.nan,
    )  # fmt: skip
    write, read = lambda: array.__setitem__(..., block), lambda: array[...]
    encode, decode = seconds(write, rounds), seconds(read, rounds)
    stored = sum(len(value.to_bytes()) for key, value in store.items() if key.startswith("c/"))
    return block.nbytes / stored, block.nbytes / encode / 1e6, block.nbytes / decode / 1e6


def shards(values: np.ndarray, rounds: int) -> Table:
    """One block of 8 MiB as one chunk, or as a shard of several."""
    width = values.shape[1]
    rows = 1 << (BLOCK // width).bit_length() - 1
    block = np.resize(values, (rows, width)).astype(np.float32)
    title = f"a block of {block.nbytes / 2**20:.0f} MiB, {rows} samples of {width} values: milliseconds of one core"
    table = Table("codec", "chunks", "write", "read all", "read a sample", "read a neuron", title=title)
    for codec in ("plain", "sparse", "rounded"):
        for pieces in (1, 4, 8, 16, 32):
            table.add_row(codec, str(pieces), *(f"{1e3 * one:.1f}" for one in shard(block, codec, pieces, rounds)))
    return table


def shard(block: np.ndarray, codec: str, pieces: int, rounds: int) -> list[float]:
    """Seconds to write it, to read all of it, one sample, one neuron."""
    rows, width = block.shape
    array = zarr.create_array(
        {}, shape=block.shape, chunks=(rows // pieces, width), shards=block.shape if pieces > 1 else None,
        dtype="f4", compressors=CODECS[codec](), config={"write_empty_chunks": True},
    )  # fmt: skip
    write, read = lambda: array.__setitem__(..., block), lambda: array[...]
    return [seconds(one, rounds) for one in (write, read, lambda: array[rows // 2], lambda: array[:, 7])]


def seconds(work: Callable[[], Any], rounds: int) -> float:
    """Of the processor, all threads together; the median of the rounds."""
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return max(statistics.median(taken), 1e-6)


if __name__ == "__main__":
    main()
