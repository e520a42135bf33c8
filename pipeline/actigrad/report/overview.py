"""Overview: the report of one run, from its findings to the sites that matter."""

import json
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import xarray

from actigrad import views
from actigrad.findings import Finding, Measures, Record, in_order, judge, measure, split_samples
from actigrad.report.choice import RULE, choose_sites
from actigrad.report.parts import Part, Picture, Report, Table, slug
from actigrad.report.tables import (
    SITE_ROWS,
    number,
    say_range,
    say_values,
    tabulate_neurons,
    tabulate_sites,
    tabulate_steps,
    tabulate_values,
)
from actigrad.storage.names import blocks_group
from actigrad.storage.store import read_samples
from actigrad.views.images import find_inputs
from actigrad.views.reading import find_group

PIXELS = (96, 320)
WHOLE_BYTES = 1 << 29
"""The largest whole array that is drawn; larger ones are for the explorer, which reads levels."""
INCOMPLETE = (
    "This store is incomplete: its run has not ended. What follows holds for the steps that were committed; finish it "
    "with actigrad run CONFIG --resume."
)
TABLE = (
    "Statistics over all samples at step {step}: medians over the site's neurons; dead is the share of neurons that "
    "are zero for every sample; not finite is the count over all steps looked at."
)


def describe_run(tree: xarray.DataTree, advance: Callable[[int, int], None]) -> Report:
    """The report of one store."""
    record = measure(tree, advance)
    findings = judge(record)
    return Report(
        title=str(tree.attrs["title"]),
        subtitle=subtitle(tree),
        warnings=[] if tree.attrs["complete"] else [INCOMPLETE],
        facts=facts(tree, record),
        findings=findings,
        fine=in_order(record, findings),
        parts=[*_model_parts(tree, record), *_site_parts(tree, record, findings)],
        table=tabulate_sites(record, SITE_ROWS),
        table_text=TABLE.format(step=record.steps[-1]),
        about=about(tree),
    )


def subtitle(tree: xarray.DataTree) -> str:
    """When and what, in a line."""
    steps = read_samples(tree)["step"].values
    when = f"{len(steps)} recorded steps, {steps[0]} to {steps[-1]}" if len(steps) > 1 else f"step {steps[0]}"
    made = f"made {str(tree.attrs['created']).replace('T', ' ').replace('+00:00', ' UTC')} on {tree.attrs['device']}"
    return f"{when} · gradients of {tree.attrs['gradients_of']} · {made}"


def facts(tree: xarray.DataTree, record: Record) -> list[tuple[str, str]]:
    """A few numbers with their names."""
    samples, out = read_samples(tree), []
    for name, rows in split_samples(samples):
        loss = samples["loss"].isel(step=-1).values[rows]
        if "prediction" in samples and "label" in samples:
            right = samples["prediction"].isel(step=-1).values[rows] == samples["label"].values[rows]
            out.append((f"accuracy, {name}", f"{right.mean():.1%}"))
        out.append((f"mean loss, {name}", number(float(loss.mean()))))
    sites = [measures.site for measures in record.sites if measures.site]
    neurons = sum(site.shape[-1] if "neuron" in site.dims else 1 for site in sites)
    counts = {
        "sites": len(sites),
        "neurons": neurons,
        "samples": samples.sizes["sample"],
        "steps": samples.sizes["step"],
    }
    return out + [(name, f"{count:,}") for name, count in counts.items()]


def about(tree: xarray.DataTree) -> str:
    """The config and versions as text."""
    return json.dumps({"config": tree.attrs["config"], "versions": tree.attrs["versions"]}, indent=2)


def _model_parts(tree: xarray.DataTree, record: Record) -> Iterator[Part]:
    last = record.steps[-1]
    text = (
        "One cell a site and recorded step. A row that changes colour is a site that changes; a column that changes is "
        "a moment."
    )
    pictures = [
        Picture(
            slug("overview", quantity),
            lambda q=quantity: views.overview(tree, quantity=q),
            f"Heatmap of the {quantity}'s size, sites by steps: {say_range(record, quantity)}.",
            tabulate_steps(record, quantity),
        )
        for quantity in ("activation", "gradient")
    ]
    yield Part("overview", "Where and when", text, pictures)
    text = (
        "The model from input to loss, indented by module. Arcs on the left are the data flow read off the traced "
        "program. The columns are the values at the last recorded step."
    )
    picture = Picture(
        "structure",
        lambda: views.structure(tree),
        f"Module tree of {len(record.sites)} sites with the data flow between them and values at step {last}.",
        tabulate_sites(record),
    )
    yield Part("structure", "The structure, with values", text, [picture])
    text = (
        "How large the gradient is at each site. A line that falls towards the left vanishes on its way back to the "
        "input, one that rises explodes."
    )
    picture = Picture(
        "flow",
        lambda: views.flow(tree),
        f"Gradient size by depth at step {last} with quantile ribbons; over all steps {say_range(record, 'gradient')}.",
        tabulate_steps(record, "gradient"),
    )
    yield Part("flow", "Gradient flow", text, [picture])
    text, alt = _say_saliency(tree)
    picture = Picture("saliency", lambda: views.saliency(tree), alt, _hardest(tree))
    yield Part("saliency", "What in the input matters", text, [picture])


def _say_saliency(tree: xarray.DataTree) -> tuple[str, str]:
    """How to read the maps of the input, and what is seen, of images or of tokens."""
    group = next((node for node in find_inputs(tree).values() if "gradient" in node), None)
    what = tree.attrs["gradients_of"]
    if group is None:
        return (
            f"The samples of the largest loss, a token a cell, its colour the gradient of {what} times the activation "
            "where the token's vector is: red raises it, blue lowers it. It is a place to begin: hide a token and "
            "look whether the loss follows.",
            "Texts of the largest loss, each token coloured by the gradient times the activation.",
        )
    text = (
        "One sample of each label, the one with the largest loss: label → prediction above the input. Below, the "
        f"gradient of {what} with respect to each pixel: where it is red, raising the pixel raises it, where it is "
        "blue lowers it. Each map has its own scale, given above it (±)."
    )
    if "gradient_randomised" in group:
        text += (
            " Under each map stands its control, the same map with the weights shuffled, and ρ, the rank correlation "
            "of both: a map that tells of what the model has learned has a ρ near 0; near 1 it shows the input alone."
        )
    return text, "Input images in the upper row and maps of what in each pixel matters below, one sample a label."


def _hardest(tree: xarray.DataTree) -> Table:
    """The samples of the largest loss."""
    samples = read_samples(tree)
    loss = samples["loss"].isel(step=-1).values
    columns = {name: samples[name].values for name in ("label",) if name in samples}
    if "prediction" in samples:
        columns["prediction"] = samples["prediction"].isel(step=-1).values
    top = np.argsort(-loss, kind="stable")[:20]
    rows = [[str(i), *(str(column[i]) for column in columns.values()), number(float(loss[i]))] for i in top]
    return Table(("sample", *columns, "loss"), rows, f"the {len(rows)} samples of the largest loss at the last step")


def _site_parts(tree: xarray.DataTree, record: Record, findings: Sequence[Finding]) -> Iterator[Part]:
    text = (
        "In a heatmap neurons stand from top to bottom, samples (grouped by label) or recorded steps from left to "
        "right. A cell is the signed value of largest magnitude among what it covers, so nothing is averaged away; "
        "what is not finite is bright green. Hover tells which neuron and which sample it is."
    )
    shown = choose_sites(record, findings)
    yield Part("sites", "The sites that matter", f"{RULE.format(shown=len(shown), all=len(record.sites))} {text}")
    for measures in shown:
        own = [finding for finding in findings if finding.site == measures.path]
        title, site = f"{measures.path}  {measures.site.kind if measures.site else ''}".rstrip(), measures.site
        shape = f"{'×'.join(map(str, site.sample_shape))} values" if site and site.sample_shape else "one value"
        words = f"{shape} a sample, {site.work.parameters:,} parameters, {site.dtype}." if site else ""
        pictures = list(_site_pictures(tree, measures, record.steps))
        yield Part(slug("site", measures.path), title, words, pictures, own, code=True)


def _site_pictures(tree: xarray.DataTree, measures: Measures, steps: Sequence[int]) -> Iterator[Picture]:
    path, count = measures.path, measures.site.shape[-1] if measures.site and measures.site.dims else 1
    several = len(steps) > 1
    for quantity in measures.numbers:
        said = say_values(measures, quantity)
        if _small_enough(measures) or len(find_group(tree, blocks_group(path, quantity))):
            yield Picture(
                slug(quantity, "by sample", path),
                lambda q=quantity: views.heatmap(tree, path, quantity=q, dynamic=False, pixels=PIXELS),
                f"Heatmap of the {quantity} at {path}, {count:,} neurons by samples: {said}.",
                tabulate_neurons(tree, path, quantity),
            )
        if several:
            yield Picture(
                slug(quantity, "by step", path),
                lambda q=quantity: views.heatmap(tree, path, quantity=q, x="step", dynamic=False, pixels=PIXELS),
                f"Heatmap of the {quantity} at {path}, {count:,} neurons by recorded steps: {said}.",
                tabulate_values(measures, quantity, steps),
            )
    if "activation" in measures.numbers:
        yield Picture(
            slug("distribution", path),
            lambda: views.distribution(tree, path),
            f"Values of the activation at {path} counted by bins and steps: {say_values(measures, 'activation')}.",
            tabulate_values(measures, "activation", steps),
        )


def _small_enough(measures: Measures) -> bool:
    site = measures.site
    return site is not None and 4 * int(np.prod(site.shape, dtype=np.float64)) <= WHOLE_BYTES
