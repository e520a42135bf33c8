"""What a look at a large matrix costs, beside what a user would pick instead.

    python scripts/bench/views.py                  # 200,000 x 5,000 float32, 4 GB in a temporary folder
    python scripts/bench/views.py --huge           # and a generated site of 10^8 neurons at 64 steps (10 GB of levels)
    python scripts/bench/views.py --quick          # a small matrix, to see that it runs

Prints: the build of the levels over one Dask min and max of the same store; 50 random zooms at 800 x 600; the full
extent against `hvplot(rasterize=True)` on the lazy array, and Matplotlib's `imshow`, `xarray.plot` and Plotly of
the array loaded before; the memory of this process while it looked; and 200,000 neurons by similarity. Everything is
measured in turn in one process.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import psutil
import zarr
from dask.base import compute
from zarr.codecs import Crc32cCodec

from actigrad.pictures.levels import Source, build_levels, open_levels
from actigrad.pictures.raster import Matrix, rasterise
from actigrad.pictures.similarity import similarity_order

PIXELS = (600, 800)


def make_matrix(path: Path, shape: tuple[int, int]) -> zarr.Array:
    """Activations of a kind: noise of which each row has its own scale, zeros below it, and a spike."""
    array: Any = zarr.create_array(path, shape=shape, chunks=(1024, 1024), dtype="float32", compressors=[Crc32cCodec()])
    random = np.random.default_rng(0)
    noise = np.maximum(random.normal(size=(1024, shape[1])), 0).astype(np.float32)
    for top in range(0, shape[0], 1024):
        rows = min(1024, shape[0] - top)
        array[top : top + rows] = noise[:rows] * random.lognormal(size=(rows, 1)).astype(np.float32)
    array[shape[0] // 3, shape[1] // 3] = -1e3
    return array


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came out."""
    began = time.perf_counter()
    out = work()
    return time.perf_counter() - began, out


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


def look(matrix: Matrix, zooms: int) -> dict[str, float]:
    """Milliseconds of random zooms and of the full extent."""
    rasterise(matrix, ((0, 10), (0, 10)), PIXELS)
    rasterise(matrix, None, PIXELS)  # compiled before it is timed
    seconds = sorted(timed(lambda w=w: rasterise(matrix, w, PIXELS))[0] for w in random_windows(matrix.shape, zooms))
    full = statistics.median(timed(lambda: rasterise(matrix, None, PIXELS))[0] for _ in range(5))
    found = {
        "median": statistics.median(seconds), "p90": seconds[int(0.9 * (len(seconds) - 1))], "worst": seconds[-1],
        "full extent": full,
    }  # fmt: skip
    return {f"{name} ms": 1e3 * value for name, value in found.items()}


def peers(array: zarr.Array) -> dict[str, float]:
    """Seconds of the full extent in what else there is; only what fits into memory is loaded."""
    import holoviews as hv
    import hvplot.xarray  # noqa: F401 - registers
    import matplotlib.pyplot as plt
    import plotly.graph_objects as go
    import xarray

    dims = ["neuron", "step"]
    lazy = xarray.DataArray(da.from_zarr(array), dims=dims, name="value").assign_coords(
        {dim: np.arange(n) for dim, n in zip(dims, array.shape, strict=True)}
    )
    draw = lambda: hv.render(lazy.hvplot.image(x="step", y="neuron", rasterize=True, width=800, height=600))
    found = {"hvplot rasterize s": timed(draw)[0]}
    if array.nbytes * 3 < psutil.virtual_memory().available:
        loaded = lazy.compute()
        figure, axes = plt.subplots(figsize=(8, 6))
        found["imshow, loaded s"] = timed(lambda: (axes.imshow(loaded.values, aspect="auto"), figure.canvas.draw()))[0]
        plt.close(figure)
        figure, axes = plt.subplots(figsize=(8, 6))
        found["xarray.plot, loaded s"] = timed(lambda: (loaded.plot.imshow(ax=axes), figure.canvas.draw()))[0]
        plt.close(figure)
    if array.size <= 10**7:  # beyond, the JSON alone is larger than what a browser opens
        values = np.asarray(array[...])
        found["plotly s"] = timed(lambda: go.Figure(go.Heatmap(z=values)).to_json())[0]
    return found


def measure(folder: Path, shape: tuple[int, int], zooms: int, neurons: int) -> dict[str, float]:
    """Everything, in turn."""
    array = make_matrix(folder / "matrix.zarr", shape)
    lazy = da.from_zarr(array)
    group = zarr.create_group(folder / "levels.zarr", zarr_format=3)
    small = zarr.create_group(folder / "warm.zarr", zarr_format=3)
    build_levels(small, Source(lazy[:4096, :4096]))  # compiled before it is timed
    scan, _ = timed(lambda: compute(lazy.min(), lazy.max()))
    build, _ = timed(lambda: build_levels(group, Source(lazy)))
    again, _ = timed(lambda: compute(lazy.min(), lazy.max()))
    found = {
        "min and max pass s": (scan + again) / 2,
        "levels built s": build,
        "build over pass": 2 * build / (scan + again),
    }
    before = psutil.Process().memory_info().rss
    found |= look(open_levels(group, array), zooms)
    found["memory while looking MB"] = max(before, psutil.Process().memory_info().rss) / 1e6
    found["memory at most, levels built MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    found |= peers(array)
    found["full extent, hvplot over ours"] = 1e3 * found["hvplot rasterize s"] / found["full extent ms"]
    profiles = np.random.default_rng(0).normal(size=(neurons, 64)).astype(np.float32)
    found[f"similarity of {neurons:,} neurons s"] = timed(lambda: similarity_order(profiles))[0]
    return found


def measure_huge(folder: Path, shape: tuple[int, int] = (10**8, 64)) -> dict[str, float]:
    """A site that is on no disk: only its levels are."""
    block = np.random.default_rng(0).normal(size=(2**20, shape[1])).astype(np.float32)
    whole: Any = block.shape
    lazy = da.concatenate([da.from_array(block, chunks=whole)] * -(-shape[0] // len(block)))[: shape[0]]
    group = zarr.create_group(folder / "huge.zarr", zarr_format=3)
    seconds, _ = timed(lambda: build_levels(group, Source(lazy)))
    opened = min(timed(lambda: rasterise(open_levels(group, lazy), None, PIXELS))[0] for _ in range(3))
    return {"huge: levels built s": seconds, "huge: opened and seen in full ms": 1e3 * opened}


def main() -> None:
    """Read the words, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small matrix")
    parser.add_argument("--huge", action="store_true", help="also 10^8 neurons")
    parser.add_argument("--zooms", type=int, default=50)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    words = parser.parse_args()
    shape, neurons = ((3000, 2000), 2000) if words.quick else ((200_000, 5000), 200_000)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), shape, words.zooms, neurons)
        if words.huge:
            found |= measure_huge(Path(folder), (10**5, 64) if words.quick else (10**8, 64))
    for name, value in found.items():
        print(f"{name:<40} {value:12,.2f}")
    if words.json:
        words.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
