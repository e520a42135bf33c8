"""Report: one HTML file that opens offline, from what a person should know first to each site's heatmaps.

    write_report("runs/digits/digits.zarr", "runs/digits/report.html")

BokehJS and all data stand in the file; it makes no request. Heatmaps are aggregated to at most `PIXELS` cells, and
whole sites are shown until `BUDGET` bytes are used; which ones were left out is said.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import holoviews as hv
import jinja2
import numpy as np
import xarray
from bokeh.embed import components
from bokeh.resources import Resources

from actigrad import views
from actigrad.errors import StoreError, ViewError
from actigrad.metrics import METRICS
from actigrad.sites import Site
from actigrad.storage.places import Where
from actigrad.storage.schema import site_group
from actigrad.storage.store import open_store, read_samples, read_sites

PIXELS = (128, 460)
BUDGET = 11 * 2**20


@dataclass
class Picture:
    """One figure of the report."""

    view: Any
    alt: str
    heading: str = ""
    caption: str = ""
    html: str = ""


@dataclass
class Part:
    """One section of the report."""

    id: str
    title: str
    text: str
    pictures: list[Picture] = field(default_factory=list)


def write_report(store: Where, path: str | Path, progress: Any = None) -> Path:
    """Write the report of a store; returns where it is.

    Args:
        store: the path or the URL of the store.
        path: the HTML file; replaced if it is there.
        progress: as `run` takes it, or None.

    Raises:
        StoreError: when the file cannot be written.
    """
    path, tree = Path(path), open_store(store)
    sites = read_sites(tree)
    parts = [part for part in _parts(tree, sites) if part.pictures]
    pictures = [picture for part in parts for picture in part.pictures]
    bar = progress.start("report", len(pictures), "picture") if progress else None
    models = []
    for picture in pictures:
        models.append(hv.render(picture.view, backend="bokeh"))
        if progress:
            progress.advance(bar)
    script, divs = components(models, wrap_script=True)
    for picture, div in zip(pictures, divs, strict=True):
        picture.html = div
    html = _template().render(
        title=str(tree.attrs["title"]), subtitle=_subtitle(tree), incomplete=not tree.attrs["complete"],
        facts=_facts(tree, sites), notes=list(_notes(tree, sites)), parts=parts, table=_table(tree, sites),
        step=int(read_samples(tree)["step"].values[-1]),
        config=json.dumps({"config": tree.attrs["config"], "versions": tree.attrs["versions"]}, indent=2),
        bokeh=_bokeh(), script=script,
    )  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"cannot write the report {path}: {error.strerror}. Give another path with --output."
        ) from error
    return path


def _bokeh() -> str:
    """BokehJS, and only that: the full set of resources would add widgets, and a request for one of Panel's scripts."""
    return "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("actigrad", "templates")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template(
        "report.html"
    )


def _parts(tree: xarray.DataTree, sites: tuple[Site, ...]) -> Iterator[Part]:
    text = (
        "One cell a site and recorded step. A row that changes colour is a site that changes; a column that changes is "
        "a moment."
    )
    part = Part("overview", "Where and when", text)
    for quantity in ("activation", "gradient"):
        part.pictures += _try(
            lambda q=quantity: views.overview(tree, quantity=q), f"Heatmap of {quantity} size, sites by steps"
        )
    yield part
    text = (
        "The model from input to loss, indented by module. Arcs on the left are the data flow read off the traced "
        "program. The three columns are the values at the last recorded step."
    )
    yield Part(
        "structure",
        "The structure, with values",
        text,
        _try(lambda: views.structure(tree), "Sites in forward order with data flow and values"),
    )
    text = (
        "How large the gradient is at each site. A line that falls towards the left vanishes on its way back to the "
        "input, one that rises explodes."
    )
    yield Part(
        "flow", "Gradient flow", text, _try(lambda: views.flow(tree), "Gradient size by depth with quantile ribbons")
    )
    text = (
        "One sample of each label, the one with the largest loss: label → prediction above the input. Below, the "
        f"gradient of {tree.attrs['gradients_of']} with respect to each pixel: where it is red, raising the pixel "
        "raises it, where it is blue lowers it. Each gradient has its own scale, given above it."
    )
    yield Part(
        "saliency", "What in the input matters", text, _try(lambda: views.saliency(tree), "Inputs and their gradients")
    )
    yield _heatmaps(tree, sites)


def _heatmaps(tree: xarray.DataTree, sites: tuple[Site, ...]) -> Part:
    text = (
        "Each site kept whole: neurons from top to bottom, all samples from left to right grouped by label; then the "
        "same neurons over the recorded steps. A cell shows the signed value of largest magnitude among what it "
        "covers, so nothing is averaged away; a value that is not finite is bright green. Hover tells which neuron "
        "and which sample it is."
    )
    part, spent, left_out = Part("heatmaps", "Neurons", text), 0, []
    for site in sites:
        if "full" not in tree[site_group(site.path)].children:
            continue
        made = []
        for x, quantities in (("sample", ("activation", "gradient")), ("step", ("activation",))):
            for quantity in quantities:
                draw = lambda q=quantity, x=x, p=site.path: views.heatmap(
                    tree, p, quantity=q, x=x, dynamic=False, pixels=PIXELS
                )
                made += _try(draw, f"Heatmap of {quantity} of {site.path}, neurons by {x}s")
        cost = sum(_cells(picture.view) for picture in made)
        if spent and spent + cost > BUDGET:  # one site always fits, aggregated as it is
            left_out.append(site.path)
            continue
        spent += cost
        if made:
            made[0].heading = f"{site.path}  {site.kind}"
        part.pictures += made
    if left_out:
        part.text += f" Left out to keep this file small: {', '.join(left_out)}; see them with actigrad.views.heatmap."
    return part


def _try(draw: Any, alt: str) -> list[Picture]:
    """The picture, or none where the store does not hold what it shows."""
    try:
        return [Picture(draw(), alt)]
    except ViewError:
        return []


def _cells(view: Any) -> int:
    """About the bytes that a picture takes in the file."""
    images = view.traverse(lambda image: image, [hv.Image])
    return sum(
        int(1.34 * 4 * np.prod(image.interface.shape(image, gridded=True)[:2]) * len(image.vdims)) for image in images
    )


def _subtitle(tree: xarray.DataTree) -> str:
    steps = read_samples(tree)["step"].values
    when = f"{len(steps)} recorded steps, {steps[0]} to {steps[-1]}" if len(steps) > 1 else f"step {steps[0]}"
    return (
        f"{when} · gradients of {tree.attrs['gradients_of']} · made {tree.attrs['created']} on {tree.attrs['device']}"
    )


def _facts(tree: xarray.DataTree, sites: tuple[Site, ...]) -> list[tuple[str, str]]:
    samples, facts = read_samples(tree), []
    for name, rows in _splits(samples):
        loss = samples["loss"].isel(step=-1).values[rows]
        if "prediction" in samples and "label" in samples:
            right = samples["prediction"].isel(step=-1).values[rows] == samples["label"].values[rows]
            facts.append((f"accuracy, {name}", f"{right.mean():.1%}"))
        facts.append((f"mean loss, {name}", f"{loss.mean():.3g}"))
    neurons = sum(site.shape[-1] if "neuron" in site.dims else 1 for site in sites)
    counts = {
        "sites": len(sites),
        "neurons": neurons,
        "samples": samples.sizes["sample"],
        "steps": samples.sizes["step"],
    }
    return facts + [(name, f"{count:,}") for name, count in counts.items()]


def _splits(samples: Any) -> list[tuple[str, np.ndarray]]:
    if "split" not in samples:
        return [("all samples", np.arange(samples.sizes["sample"]))]
    split = samples["split"].values
    names = {0: "train", 1: "held out"}
    return [(names.get(int(one), f"split {one}"), np.flatnonzero(split == one)) for one in np.unique(split)]


def _notes(tree: xarray.DataTree, sites: tuple[Site, ...]) -> Iterator[str]:
    """Sentences on what stands out, each with its site and its number."""
    rows = {site.path: _numbers(tree, site) for site in sites}
    broken = {path: row["nonfinite"] for path, row in rows.items() if row["nonfinite"] > 0}
    if broken:
        first, count = next(iter(broken.items()))
        yield f"Values that are not finite at {len(broken)} sites, first at {first} ({count:,.0f} of them)."
    else:
        yield "Every value of every site at every recorded step is finite."
    dead = {path: row["dead"] for path, row in rows.items() if row["dead"] > 0}
    if dead:
        worst = max(dead, key=lambda path: dead[path])
        yield (
            f"{worst}: {dead[worst]:.0%} of its neurons are zero for every sample at the last step. {len(dead)} of "
            f"{len(sites)} sites have dead neurons."
        )
    else:
        yield "No site has a neuron that is zero for every sample at the last step."
    slopes = {
        path: row["gradient"] for path, row in rows.items() if np.isfinite(row["gradient"]) and row["gradient"] > 0
    }
    if slopes:
        low, high = min(slopes, key=lambda p: slopes[p]), max(slopes, key=lambda p: slopes[p])
        yield (
            f"The gradient is smallest at {low} (median rms {slopes[low]:.2g}) and largest at {high} "
            f"({slopes[high]:.2g}), a factor of {slopes[high] / slopes[low]:,.0f}."
        )
    loss = read_samples(tree)["loss"].isel(step=-1).values
    hard = np.sort(loss)[::-1]
    top = max(1, len(hard) // 100)
    if loss.sum() > 0:
        share = hard[:top].sum() / loss.sum()
        yield f"The hardest 1 % of the samples ({top}) carry {share:.0%} of the loss at the last step."
    missing = [site.path for site in sites if site.missing]
    if missing:
        shown = ", ".join(missing[:5]) + " …" * (len(missing) > 5)
        yield f"No gradient could be captured at {shown}: {next(s.missing for s in sites if s.missing)}."


def _numbers(tree: xarray.DataTree, site: Site) -> dict[str, float]:
    summary, out = tree[f"{site_group(site.path)}/summary"].to_dataset(), {}
    for quantity in ("activation", "gradient"):
        out[quantity] = float("nan")
        if quantity in summary:
            values = summary[quantity].values
            last = values[-1].reshape(len(METRICS), -1)
            out[quantity] = float(np.nanmedian(last[METRICS.index("rms")]))
            out["nonfinite"] = out.get("nonfinite", 0.0) + float(np.nansum(values[:, METRICS.index("nonfinite")]))
            if quantity == "activation":
                out["dead"] = float(np.mean(last[METRICS.index("zero_fraction")] == 1))
                out["zeros"] = float(np.nanmean(last[METRICS.index("zero_fraction")]))
    return {"nonfinite": 0.0, "dead": 0.0, "zeros": float("nan")} | out


def _table(tree: xarray.DataTree, sites: tuple[Site, ...]) -> dict[str, Any]:
    heads = ("site", "kind", "shape of a sample", "activation rms", "zeros", "dead", "gradient rms", "not finite")
    rows = []
    for site in sites:
        row = _numbers(tree, site)
        shape = "×".join(map(str, site.sample_shape)) or "scalar"
        numbers = (
            f"{row['activation']:.3g}",
            f"{row['zeros']:.1%}",
            f"{row['dead']:.1%}",
            f"{row['gradient']:.3g}",
            f"{row['nonfinite']:,.0f}",
        )
        rows.append((site.path, site.kind, shape, *numbers))
    return {"heads": heads, "rows": rows}
