"""TensorBoard: event files of scalars, histograms and heatmaps along the step, written without TensorFlow.

    actigrad export runs/digits/digits.zarr --to tensorboard --output logs/digits
    tensorboard --logdir logs

Tags are `what/site`, so that TensorBoard groups all sites of one quantity:

    loss/train, loss/held_out                     mean over the samples
    activation_rms/head/relu                      one number a site and step; see SCALARS
    activation/head/relu                          the stored histogram; bins are a quarter of a decade wide
    activation_by_sample/head/relu                neurons × samples, at each step where the site was kept whole
    activation_by_step/head/relu                  neurons × recorded steps, once, at the last

Events come step by step, as a training would have written them, with the run's own time.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[attr-defined]
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata  # type: ignore[attr-defined]
from tensorboard.plugins.histogram.metadata import create_summary_metadata as histogram_metadata
from tensorboard.plugins.image.metadata import create_summary_metadata as image_metadata
from tensorboard.plugins.scalar.metadata import create_summary_metadata as scalar_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from actigrad.export.images import draw_by_sample, draw_by_step, encode
from actigrad.export.series import Series, list_series
from actigrad.findings import split_samples
from actigrad.metrics import METRICS
from actigrad.pictures.scales import read_scale
from actigrad.storage.store import read_samples

SCALARS: dict[str, tuple[Callable[[np.ndarray], Any], str]] = {
    "rms": (np.nanmedian, "root mean square over samples and positions, median over neurons"),
    "mean": (np.nanmean, "mean over samples, positions and neurons"),
    "min": (np.nanmin, "smallest value"),
    "max": (np.nanmax, "largest value"),
    "zero_fraction": (np.nanmean, "share of exact zeros"),
    "nonfinite": (np.nansum, "number of NaN and infinities"),
}
"""How the neurons of a site become one number, and what it is."""


def write(tree: xarray.DataTree, path: Path, advance: Callable[[int, int], None]) -> None:
    """A folder with one event file."""
    found, samples = list_series(tree), read_samples(tree)
    steps = samples["step"].values.tolist()
    when, total = datetime.fromisoformat(tree.attrs["created"]).timestamp(), len(steps) * len(found)
    writer = EventFileWriter(str(path))
    try:
        for index, step in enumerate(steps):
            for value in _losses(samples, index):
                writer.add_event(Event(wall_time=when, step=step, summary=Summary(value=[value])))
            for done, series in enumerate(found):
                advance(index * len(found) + done, total)
                for value in _values(series, index, step, last=step == steps[-1]):
                    writer.add_event(Event(wall_time=when, step=step, summary=Summary(value=[value])))
    finally:
        writer.close()
    advance(total, total)


def _losses(samples: xarray.Dataset, index: int) -> Iterator[Summary.Value]:
    loss = samples["loss"].isel(step=index).values
    for name, rows in split_samples(samples):
        text = "mean loss over the captured samples"
        yield _value(f"loss/{name.replace(' ', '_')}", np.float32(loss[rows].mean()), scalar_metadata("", text))


def _values(series: Series, index: int, step: int, *, last: bool) -> Iterator[Summary.Value]:
    """Everything of one series at one step."""
    stored = series.read(index)
    for metric, (reduce, text) in SCALARS.items():
        values = stored[METRICS.index(metric)]
        number = np.float32(reduce(values) if metric == "nonfinite" or np.isfinite(values).any() else np.nan)
        tag = f"{series.quantity}_{metric}/{series.place}"
        yield _value(tag, number, scalar_metadata("", f"{series.quantity} of {series.place}: {text}"))
    counted = series.histogram(index)
    if counted is None:
        return
    text = f"{series.quantity} of {series.place}, all values; {series.values.attrs.get('long_name', '')}"
    tag = f"{series.quantity}/{series.place}"
    low, high = (f(stored[METRICS.index(m)]) for f, m in ((np.fmin.reduce, "min"), (np.fmax.reduce, "max")))
    buckets = make_buckets(*counted, *series.edges(), float(np.min(low)), float(np.max(high)))
    yield _value(tag, buckets, histogram_metadata("", text))
    yield from _images(series, index, step, last)


def _images(series: Series, index: int, step: int, last: bool) -> Iterator[Summary.Value]:
    scales = {"sample": read_scale(series.group, series.quantity, index)}
    pictures = {"sample": draw_by_sample(series, step, scales["sample"])}
    if last and len(series.steps) > 1:
        scales["step"] = read_scale(series.group, series.quantity, None)
        pictures["step"] = draw_by_step(series, scales["step"])
    for across, picture in pictures.items():
        if picture is not None:
            axes = f"neurons from the top down, {across}s from left to right"
            text = f"{series.quantity} of {series.place}: {axes}; {scales[across].text()}"
            height, width = (str(size).encode() for size in picture.shape[:2])
            tag = f"{series.quantity}_by_{across}/{series.place}"
            yield _value(tag, np.array([width, height, encode(picture)], object), image_metadata("", text))


def make_buckets(
    counts: np.ndarray, zeros: int, left: np.ndarray, right: np.ndarray, low: float, high: float
) -> np.ndarray:
    """(bucket, 3) of left edge, right edge and count: TensorBoard's histogram from stored bins.

    Args:
        counts: (bin,).
        zeros: how many values are exactly zero; they go to the bin that holds zero.
        left: (bin,) lower edges; the first is -inf.
        right: (bin,) upper edges; the last is inf.
        low: the smallest finite value.
        high: the largest; they bound the outer buckets, as bins are coarse and open at the ends.

    >>> make_buckets(np.array([0, 3, 2]), 1, np.array([-np.inf, -1, 1]), np.array([-1, 1, np.inf]), -0.5, 7.0).tolist()
    [[-0.5, 1.0, 4.0], [1.0, 7.0, 2.0]]
    """
    counts = counts.astype(np.float64)
    counts[(left < 0) & (right > 0)] += zeros
    used = np.flatnonzero(counts)
    if not used.size:
        return np.zeros((0, 3))
    inside = slice(used[0], used[-1] + 1)
    buckets = np.column_stack([left[inside], right[inside], counts[inside]])
    buckets[0, 0], buckets[-1, 1] = low, high
    if low == high:  # one value alone: a bucket needs a width
        buckets[0, 0], buckets[-1, 1] = low - 0.5, high + 0.5
    return buckets


def _value(tag: str, value: np.ndarray | np.generic, metadata: SummaryMetadata) -> Summary.Value:
    return Summary.Value(tag=tag, metadata=metadata, tensor=make_tensor_proto(value))
