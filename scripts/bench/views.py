"""What a look at a large matrix costs, beside what a user would pick instead.

    python scripts/bench/views.py                  # 200,000 x 5,000 float32, 4 GB in a temporary folder
    python scripts/bench/views.py --huge           # and a generated site of 10^8 neurons at 64 steps (10 GB of levels)
    python scripts/bench/views.py --quick          # a small matrix, to see that it runs

The parts come in turn, each in a process of its own that has done nothing else, so that its peak memory is its own:

    build        the levels, over one Dask min and max pass of the same store
    look         random zooms and the full extent at 800 x 600, from the levels
    hvplot       `hvplot(rasterize=True)` on the lazy array, the full extent
    imshow, xarray.plot, plotly    the same of the array loaded before
    similarity   the order of as many neurons, of 64 columns
    activity     the map of a million neurons of a store, one step of four; drawn as an image by Datashader
    huge         a site that is on no disk: only its levels are

A part that asks for more than --limit gigabytes, or that runs longer than ten minutes, is told as such.
"""

import argparse
import gc
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import zarr
from dask.base import compute
from zarr.codecs import Crc32cCodec

from actigrad.pictures.levels import build_levels, open_levels, preload
from actigrad.pictures.raster import rasterise
from actigrad.pictures.ripmap import Source
from actigrad.pictures.similarity import similarity_order

PIXELS = (600, 800)
MINUTES = 10
FAILED = "failed"


def peak_gb() -> float:
    """Most memory this process ever held. `getrusage` would count that of the process that started it, too."""
    (kib,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(kib) * 1024 / 1e9


def timed(work: Callable[[], Any]) -> float:
    """Seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def make_matrix(path: Path, shape: tuple[int, int]) -> None:
    """Activations of a kind: noise of which each row has its own scale, zeros below it, and a spike."""
    array: Any = zarr.create_array(path, shape=shape, chunks=(1024, 1024), dtype="float32", compressors=[Crc32cCodec()])
    random = np.random.default_rng(0)
    noise = np.maximum(random.normal(size=(1024, shape[1])), 0).astype(np.float32)
    for top in range(0, shape[0], 1024):
        rows = min(1024, shape[0] - top)
        array[top : top + rows] = noise[:rows] * random.lognormal(size=(rows, 1)).astype(np.float32)
    array[shape[0] // 3, shape[1] // 3] = -1e3


def open_matrix(folder: Path) -> Any:
    """The array of `make_matrix`."""
    return zarr.open_array(folder / "matrix.zarr", mode="r")


def random_windows(shape: tuple[int, int], n: int) -> list[Any]:
    """Windows anywhere, of any size: each axis on its own, from ten elements to all, evenly by the logarithm."""
    random, windows = np.random.default_rng(1), []
    for _ in range(n):
        spans = []
        for size in shape:
            length = int(np.exp(random.uniform(np.log(min(10, size)), np.log(size))))
            low = int(random.integers(0, size - length + 1))
            spans.append((low, low + length))
        windows.append(tuple(spans))
    return windows


def measure_build(folder: Path, zooms: int) -> dict[str, float]:
    """Two passes before and after, as the disk's cache and the neighbours change; and the levels' bytes alone."""
    lazy = da.from_zarr(open_matrix(folder))
    build_levels(zarr.create_group(folder / "warm.zarr", zarr_format=3), Source(lazy[:4096, :4096]))  # compiled
    scan = lambda: timed(lambda: compute(lazy.min(), lazy.max()))
    scan()
    clock, before = time.process_time(), scan()
    clock, worked = time.process_time(), time.process_time() - clock
    build = timed(lambda: build_levels(zarr.create_group(folder / "levels.zarr", zarr_format=3), Source(lazy)))
    works, pass_ = time.process_time() - clock, (before + scan()) / 2
    size = sum(file.stat().st_size for file in (folder / "levels.zarr").rglob("*"))
    alone = timed(lambda: write_files(folder / "alone", size))
    return {
        "min and max pass s": pass_, "levels built s": build, "build over pass": build / pass_,
        "of processor time": works / worked, "levels GB": size / 1e9, "as many bytes in plain files s": alone,
    }  # fmt: skip


def write_files(folder: Path, size: int) -> None:
    """So many bytes in files of a megabyte, not synced: what the disk's cache takes at best."""
    folder.mkdir()
    block = np.random.default_rng(0).bytes(2**20)
    for at in range(0, size, len(block)):
        (folder / f"{at}").write_bytes(block[: size - at])
    shutil.rmtree(folder)


def measure_look(folder: Path, zooms: int) -> dict[str, float]:
    """Milliseconds."""
    matrix = open_levels(zarr.open_group(folder / "levels.zarr", mode="r"), open_matrix(folder))
    loaded = 1e3 * timed(preload)
    rasterise(matrix, None, PIXELS)
    gc.collect()
    gc.freeze()  # else Python looks at all modules once, for 0.1 s, at whichever window it is
    took = sorted(1e3 * timed(lambda w=w: rasterise(matrix, w, PIXELS)) for w in random_windows(matrix.shape, zooms))
    full = statistics.median(1e3 * timed(lambda: rasterise(matrix, None, PIXELS)) for _ in range(5))
    p90 = took[int(0.9 * (len(took) - 1))]
    return {
        "median ms": statistics.median(took), "p90 ms": p90, "worst ms": took[-1], "full extent ms": full,
        "compiled loops loaded ms": loaded,
    }  # fmt: skip


def measure_peer(name: str, folder: Path, zooms: int) -> dict[str, float]:
    """Seconds of the full extent, drawn; loading and importing are not counted."""
    import xarray

    array, dims = open_matrix(folder), ["neuron", "step"]
    values = da.from_zarr(array) if name == "hvplot" else np.asarray(array[...])
    named = xarray.DataArray(values, dims=dims, name="value").assign_coords(
        {dim: np.arange(n) for dim, n in zip(dims, array.shape, strict=True)}
    )
    DRAW[name](named[:8, :8])  # imported and compiled before it is timed
    return {"full extent s": timed(lambda: DRAW[name](named))}


def draw_hvplot(values: Any) -> None:
    """The default path."""
    import holoviews as hv
    import hvplot.xarray  # noqa: F401 - registers

    hv.render(values.hvplot.image(x="step", y="neuron", rasterize=True, width=800, height=600))


def draw_imshow(values: Any) -> None:
    """Matplotlib."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 6))
    axes.imshow(values.values, aspect="auto")
    figure.canvas.draw()


def draw_xarray(values: Any) -> None:
    """Matplotlib by xarray."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 6))
    values.plot.imshow(ax=axes)
    figure.canvas.draw()


def draw_plotly(values: Any) -> None:
    """The JSON that a browser would get."""
    import plotly.graph_objects as go

    go.Figure(go.Heatmap(z=values.values)).to_json()


def measure_similarity(folder: Path, zooms: int) -> dict[str, float]:
    """Of as many neurons as the matrix has."""
    profiles = np.random.default_rng(0).normal(size=(open_matrix(folder).shape[0], 64)).astype(np.float32)
    began = time.process_time()
    took = timed(lambda: similarity_order(profiles))
    return {"order s": took, "on the processors s": time.process_time() - began}


def measure_activity(folder: Path, zooms: int) -> dict[str, float]:
    """A million neurons; 10,000 where the matrix is small. The store is open, the caches are those of the disk."""
    from actigrad import views
    from actigrad.storage.store import open_store

    neurons = 10**6 if open_matrix(folder).shape[0] >= 10**5 else 10**4
    for name, n in (("small.zarr", 100), ("wide.zarr", neurons)):
        make_store(folder / name, n)
    views.activity(open_store(folder / "small.zarr"), "hidden", dynamic=False)  # imported and compiled
    tree = open_store(folder / "wide.zarr")
    began = time.process_time()
    took = [1e3 * timed(lambda: views.activity(tree, "hidden", dynamic=False, pixels=PIXELS)) for _ in range(15)]
    worked = 1e3 * (time.process_time() - began) / len(took)
    return {"map ms": statistics.median(took), "first ms": took[0], "on the processors ms": worked}


def make_store(path: Path, neurons: int) -> None:
    """A run of one site at four steps, a tenth of its neurons dead, without its values."""
    from actigrad.config.records import Config
    from actigrad.metrics import METRICS
    from actigrad.sites import Site
    from actigrad.storage.create import create_store, finalize_store
    from actigrad.storage.names import SCHEMA_VERSION
    from actigrad.storage.schema import Plan, Tensors, make_template

    config = Config.model_validate({
        "model": {"factory": "a:b"}, "data": {"factory": "a:b"}, "loss": "a:b", "store": {"path": str(path)},
        "train": {"factory": "a:b", "steps": 4, "record_every": 1}, "parameters": {"keep": "none"},
    })  # fmt: skip
    site = Site("hidden", (8, neurons), "float32", ("sample", "neuron"))
    template = make_template(
        config, [Plan(site, ("activation", "gradient"), {})], {"id": np.arange(8)}, Tensors({}, {}, False)
    )
    attrs = {"actigrad_schema": SCHEMA_VERSION, "gradients_of": "each sample's own loss"}
    create_store(path, template, attrs)
    random, group = np.random.default_rng(0), zarr.open_group(path, mode="r+")
    for name, spec in template.arrays.items():
        if name not in template.coords:
            values = np.abs(random.normal(size=spec.shape)).astype(spec.dtype)
            if spec.dims[1:] == ("metric", "neuron"):
                values[:, METRICS.index("zero_fraction")] = np.minimum(1, random.random(neurons) / 0.9)
            group[name][...] = values  # type: ignore[index]
    finalize_store(path)


def measure_huge(folder: Path, zooms: int) -> dict[str, float]:
    """10^8 neurons; 10^5 where the matrix is small."""
    shape = (10**8 if open_matrix(folder).shape[0] >= 10**5 else 10**5), 64
    block = np.random.default_rng(0).normal(size=(2**20, shape[1])).astype(np.float32)
    whole: Any = block.shape
    lazy = da.concatenate([da.from_array(block, chunks=whole)] * -(-shape[0] // len(block)))[: shape[0]]
    group = zarr.create_group(folder / "huge.zarr", zarr_format=3)
    seconds = timed(lambda: build_levels(group, Source(lazy)))
    opened = min(timed(lambda: rasterise(open_levels(group, lazy), None, PIXELS)) for _ in range(3))
    return {"levels built s": seconds, "opened and seen in full ms": 1e3 * opened}


DRAW = {"hvplot": draw_hvplot, "imshow": draw_imshow, "xarray.plot": draw_xarray, "plotly": draw_plotly}
PARTS = {
    "build": measure_build,
    "look": measure_look,
    **{name: lambda folder, zooms, name=name: measure_peer(name, folder, zooms) for name in DRAW},
    "similarity": measure_similarity,
    "activity": measure_activity,
    "huge": measure_huge,
}


def run_part(name: str, folder: Path, words: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own."""
    command = [sys.executable, __file__, "--part", name, "--folder", folder, "--zooms", words.zooms]
    command += ["--limit", words.limit]
    try:
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60 * MINUTES)
    except subprocess.TimeoutExpired:
        return {FAILED: f"it took more than {MINUTES} minutes"}
    if done.returncode:
        told = (done.stderr.strip().splitlines() or ["killed"])[-1]
        return {FAILED: f"more than {words.limit:g} GB" if "Memory" in told or "allocate" in told else told}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Read the words, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small matrix")
    parser.add_argument("--huge", action="store_true", help="also 10^8 neurons")
    parser.add_argument("--zooms", type=int, default=50)
    parser.add_argument("--limit", type=float, default=12, help="gigabytes that a part may hold")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.part:
        limit = int(words.limit * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        print(json.dumps(PARTS[words.part](words.folder, words.zooms) | {"peak memory GB": peak_gb()}))
        return
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_matrix(folder / "matrix.zarr", (3000, 2000) if words.quick else (200_000, 5000))
        os.sync()  # else the disk is still busy with it while levels are written
        for part in PARTS:
            if part != "huge" or words.huge:
                found[part] = run_part(part, folder, words)
                told = (f"{key} {value if key == FAILED else f'{value:,.2f}'}" for key, value in found[part].items())
                print(f"{part:<12}", "   ".join(told), flush=True)
    if FAILED not in {*found["hvplot"], *found["look"]}:
        ratio = 1e3 * found["hvplot"]["full extent s"] / found["look"]["full extent ms"]
        print(f"full extent: hvplot takes {ratio:.0f} times as long")
    if words.json:
        words.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
