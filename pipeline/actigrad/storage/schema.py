"""Schema: sites and a config to the final shape of a store, before anything is computed.

A `Template` lists every group and every array with dims, shape, chunks, dtype and attributes. Shape first means that a
run that cannot fit is refused before it starts, and that every write can be checked against what it should be.

    run.zarr/  samples/  inputs/<name>/full  sites/<path>/{full,summary}  parameters/<path>/{full,summary}
               sites/<path>/levels/natural/<quantity>/samples

Arrays stand only in groups called `full` or `summary`, or below `levels`. xarray refuses a tree in which a group's dims
disagree with those of a group above it, and sites nest (`head`, `head/0`); so none with arrays stands above another.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actigrad.config.records import CaptureRule, Config
from actigrad.errors import CaptureError
from actigrad.metrics import METRICS, SPECIAL, bin_edges
from actigrad.sites import Site, Work, choose
from actigrad.storage.blocks import BLOCK_BYTES, FIELDS, block_counts, block_size, blocks_attrs
from actigrad.storage.grid import block_rows, segment_rows
from actigrad.storage.names import blocks_group, site_group
from actigrad.storage.template import Arrays, Template, item_size

LONG_NAMES = {
    "activation": "activation",
    "value": "parameter",
    "update": "change of the parameter by the last training update",
}
CODEC_OF = {"auto": None, "none": "plain", "zstd": "sparse", "lz4": "rounded"}
"""The config's `store.codec` in the words of `ArraySpec.codec`."""
GRADIENTS = {
    "activation": "gradient of {of} with respect to the activation",
    "input": "gradient of {of} with respect to the input",
    "parameter": "gradient of {of}, summed over the captured samples, with respect to the parameter",
}
"""The root's attribute `gradients_of` tells whether that is each sample's own or the batch's."""


@dataclass(frozen=True)
class Plan:
    """What is kept of one site.

    Attributes:
        site: the site.
        summary: the quantities summarised at every recorded step.
        full: the quantities kept whole, with the rule that says how.
        levels: the quantities of which blocks of neurons are kept for each sample, likewise.
    """

    site: Site
    summary: tuple[str, ...]
    full: Mapping[str, CaptureRule]
    levels: Mapping[str, CaptureRule] = field(default_factory=dict)


def make_plans(config: Config, sites: Sequence[Site]) -> tuple[Plan, ...]:
    """What to keep of each site that a rule matches, in forward order.

    Raises:
        NoSuchSite: when a rule's pattern matches nothing.
        CaptureError: when a whole array is asked for that has no sample axis to write along.
    """
    chosen = [(rule, {site.path for site in choose(sites, rule.sites, rule.exclude)}) for rule in config.capture]
    plans = []
    for site in sites:
        rules = [rule for rule, paths in chosen if site.path in paths]
        quantities = [q for q in ("activation", "gradient") if any(q in rule.quantities for rule in rules)]
        if site.missing:
            quantities = [quantity for quantity in quantities if quantity != "gradient"]
        kept: dict[str, dict[str, CaptureRule]] = {"summary": {}, "levels": {}, "full": {}}
        for rule in rules:
            keep = "full" if rule.keep == "levels" and block_size(site) is None else rule.keep
            kept[keep] |= {q: rule for q in rule.quantities if q in quantities}
        if (kept["full"] or kept["levels"]) and "sample" not in site.dims:
            raise CaptureError(
                f"site {site.path!r} has dims {site.dims} {site.shape}: no axis is the sample's, so it cannot be kept "
                "whole. Exclude it from the rule with keep: full or levels; its summary can be had."
            )
        if rules and site.dtype != "bool" and not site.dtype.startswith("key"):
            plans.append(Plan(site, tuple(quantities), kept["full"], kept["levels"]))
    return tuple(plans)


def make_template(config: Config, plans: Sequence[Plan], samples: Mapping[str, Any], tensors: "Tensors") -> Template:
    """The store of a run.

    Args:
        config: the run.
        plans: what to keep of each site.
        samples: 1-D integer arrays along the samples, `label` and others.
        tensors: names, shapes of the model's inputs and parameters, and whether the loss predicts.
    """
    n = len(next(iter(samples.values())))
    segment = segment_rows(n, config.data.batch_size, *_row_bytes(plans, tensors, config))
    steps, arrays, groups = config.steps, Arrays(segment), {}
    arrays.coord("samples/sample", ("sample",), range(n), {"long_name": "position in the captured data"})
    arrays.coord("samples/step", ("step",), steps, {"long_name": "training updates done", "units": "1"})
    for name, values in samples.items():
        arrays.coord(f"samples/{name}", ("sample",), values, {"long_name": name})
    arrays.add("samples/loss", {"sample": n}, step=steps, attrs={"long_name": "loss of the sample", "units": "1"})
    if config.objective:
        attrs = {"long_name": f"{config.objective.function} of the sample, which gradients are of", "units": "1"}
        arrays.add("samples/objective", {"sample": n}, step=steps, attrs=attrs)
    if config.parameters.sample_norms:
        name = f"norm of the gradient of {_objective(config)} of the sample alone with respect to all parameters"
        arrays.add("samples/gradient_norm", {"sample": n}, step=steps, attrs={"long_name": name, "units": "1"})
    if tensors.predicts:
        attrs = {"long_name": "predicted class"}
        arrays.add("samples/prediction", {"sample": n}, step=steps, dtype="int32", attrs=attrs)
    for plan in plans:
        groups[site_group(plan.site.path)] = _site_attrs(plan.site, len(groups), min(n, config.data.batch_size))
        _add_site(arrays, plan, config, n)
    for plan in plans:
        for quantity, rule in plan.levels.items():
            groups[blocks_group(plan.site.path, quantity)] = dict(blocks_attrs(plan.site, quantity))
            _add_blocks(arrays, plan.site, quantity, rule, config, n)
    if config.inputs.keep == "full":
        for index, (name, (shape, has_gradient)) in enumerate(tensors.inputs.items()):
            groups[f"inputs/{name}"] = {"index": index}
            _add_input(arrays, f"inputs/{name}/full", shape, config, n, has_gradient)
    if config.parameters.keep != "none":
        for path, shape in tensors.parameters.items():
            groups[site_group(path, "parameters")] = {"path": path, "shape": list(shape)}
            _add_parameter(arrays, site_group(path, "parameters"), shape, config)
    return Template(groups, arrays.specs, arrays.values, segment)


def _row_bytes(plans: Sequence[Plan], tensors: "Tensors", config: Config) -> tuple[int, int]:
    """Bytes of one sample at one step: what is stored of it, and what is captured of it."""
    full = sum(4 * math.prod(plan.site.sample_shape) * len(plan.full) for plan in plans)
    full += sum(BLOCK_BYTES * len(block_counts(plan.site)) * len(plan.levels) for plan in plans if plan.levels)
    arrays = 1 + len(input_maps(config))
    inputs = sum(4 * math.prod(shape) * (arrays if maps else 1) for shape, maps in tensors.inputs.values())
    inputs = inputs if config.inputs.keep == "full" else 0
    passing = sum(4 * math.prod(plan.site.sample_shape) * len(plan.summary) for plan in plans)
    return full + inputs, passing + inputs


@dataclass(frozen=True)
class Tensors:
    """The tensors of a run beside its sites: shapes by name.

    Attributes:
        inputs: for each array of numbers of the batch that is more than one a sample, its shape for one sample and
            whether it has a gradient: floating ones have, tokens have not.
        parameters: the shape of each floating parameter by path.
        predicts: whether the loss also returns `prediction`.
    """

    inputs: Mapping[str, tuple[tuple[int, ...], bool]]
    parameters: Mapping[str, tuple[int, ...]]
    predicts: bool


def work_attrs(work: Work, traced: int) -> dict[str, Any]:
    """What is done on the way to a place, for a store: FLOPs are those of one sample's forward pass."""
    return {
        "operations": [[name, times] for name, times in work.operations],
        "flops_per_sample": work.flops / traced,
        "parameters": work.parameters,
    }


def _objective(config: Config) -> str:
    return f"the objective {config.objective.function}" if config.objective else "the loss"


def _gradient_of(what: str, config: Config) -> str:
    return GRADIENTS[what].format(of=_objective(config))


def _site_attrs(site: Site, index: int, traced: int) -> dict[str, Any]:
    return {
        "path": site.path,
        "kind": site.kind,
        "dims": list(site.dims),
        "dtype": site.dtype,
        "sample_shape": list(site.sample_shape),
        "index": index,
        "feeds": list(site.feeds),
        "missing": site.missing,
        **work_attrs(site.work, traced),
    }


def _add_site(arrays: Arrays, plan: Plan, config: Config, n: int) -> None:
    group, sizes = site_group(plan.site.path), dict(zip(plan.site.dims, plan.site.shape, strict=True))
    for quantity in plan.summary:
        name = LONG_NAMES.get(quantity) or _gradient_of("activation", config)
        _add_summary(arrays, f"{group}/summary", quantity, config.steps, _kept(sizes), name)
        _add_histogram(arrays, f"{group}/summary", quantity, config.steps, _loops(sizes))
    steps = config.steps if any(rule.steps == "all" for rule in plan.full.values()) else config.steps[-1:]
    for quantity, rule in plan.full.items():
        row_bytes = 4 * math.prod(plan.site.sample_shape)
        rows = block_rows(arrays.segment, config.data.batch_size, row_bytes, config.store.chunk_bytes)
        name = LONG_NAMES.get(quantity) or _gradient_of("activation", config)
        attrs = {"long_name": name, "units": "1", "dtype": _kept_dtype(plan.site, rule)}
        asked = CODEC_OF[config.store.codec]
        codec = asked or ("rounded" if attrs["dtype"] == "bfloat16" else "plain")
        chunks = {"sample": rows} | _split(sizes, "neuron", rows * row_bytes, config.store.chunk_bytes)
        dims = sizes | {"sample": n}
        arrays.add(f"{group}/full/{quantity}", dims, step=steps, chunks=chunks, attrs=attrs, codec=codec)


def _add_blocks(arrays: Arrays, site: Site, quantity: str, rule: CaptureRule, config: Config, n: int) -> None:
    sizes = {"sample": n, "block": len(block_counts(site))}
    steps, aim = config.steps if rule.steps == "all" else config.steps[-1:], config.store.chunk_bytes
    for name, (dtype, long_name) in FIELDS.items():
        row_bytes = item_size(dtype) * sizes["block"]
        rows = block_rows(arrays.segment, config.data.batch_size, row_bytes, aim)
        chunks = {"sample": rows} | _split(sizes, "block", rows * row_bytes, aim)
        path, codec = f"{blocks_group(site.path, quantity)}/{name}", "sparse" if name == "nonfinite" else "plain"
        arrays.add(path, sizes, step=steps, chunks=chunks, dtype=dtype, codec=codec, attrs={"long_name": long_name})


def _kept_dtype(site: Site, rule: CaptureRule) -> str:
    return "bfloat16" if "bfloat16" in (site.dtype, rule.dtype) else "float32"


def _split(sizes: Mapping[str, int], dim: str, nbytes: int, aim: int) -> dict[str, int]:
    """What is written of one batch is cut along a dim where it is still too large; one write owns all of the pieces."""
    pieces = -(-nbytes // (2 * aim))
    if pieces <= 1 or dim not in sizes:
        return {}
    return {dim: -(-sizes[dim] // min(pieces, sizes[dim]))}


def _kept(sizes: Mapping[str, int]) -> dict[str, int]:
    return _loops(sizes) | {"neuron": sizes.get("neuron", 1)}


def _loops(sizes: Mapping[str, int]) -> dict[str, int]:
    return {dim: size for dim, size in sizes.items() if dim.startswith(("layer", "shard"))}


def _add_summary(arrays: Arrays, group: str, name: str, steps, sizes: Mapping[str, int], long_name: str) -> None:
    arrays.coord(f"{group}/metric", ("metric",), METRICS, {"long_name": "statistic of a neuron's finite values"})
    attrs = {"long_name": f"{long_name}, summarised for each neuron", "units": "1"}
    arrays.add(f"{group}/{name}", {"metric": len(METRICS), **sizes}, step=steps, attrs=attrs)


def _add_histogram(arrays: Arrays, group: str, quantity: str, steps, loops: Mapping[str, int]) -> None:
    edges = bin_edges()
    for side, values in (("bin_left", edges[:-1]), ("bin_right", edges[1:])):
        arrays.coord(f"{group}/{side}", ("bin",), values, {"long_name": f"{side.removeprefix('bin_')} edge of the bin"})
    attrs = {"long_name": f"number of values of the {quantity} in each bin", "units": "1"}
    dims = {**loops, "bin": len(edges) - 1}
    arrays.add(f"{group}/{quantity}_histogram", dims, step=steps, dtype="int64", attrs=attrs)
    arrays.coord(f"{group}/special", ("special",), SPECIAL, {"long_name": "values that are in no bin"})
    attrs = {"long_name": f"number of zeros, NaN and infinities of the {quantity}", "units": "1"}
    dims = {**loops, "special": len(SPECIAL)}
    arrays.add(f"{group}/{quantity}_special", dims, step=steps, dtype="int64", attrs=attrs)


def _add_input(arrays: Arrays, group: str, shape: tuple[int, ...], config: Config, n: int, has_gradient: bool) -> None:
    from_shape = Site("", (n, *shape), "float32", (), "")
    between = len(shape) - 1
    named: dict[int, tuple[str, ...]] = {0: (), 1: ("position",), 2: ("y", "x")}
    names = named.get(between, tuple(f"d{i + 1}" for i in range(between)))
    sizes = dict(zip(("sample", *names, "neuron")[: len(shape) + 1], from_shape.shape, strict=True))
    if not has_gradient and len(shape) == 1:
        sizes = {"sample": n, "position": shape[0]}  # tokens
    rows = block_rows(arrays.segment, config.data.batch_size, 4 * math.prod(shape), config.store.chunk_bytes)
    add = lambda name, long_name, dtype: arrays.add(
        f"{group}/{name}", sizes, step=config.steps[-1:], chunks={"sample": rows}, dtype=dtype,
        attrs={"long_name": long_name, "units": "1"},
    )  # fmt: skip
    add("value", "input of the model", "float32" if has_gradient else "int32")
    for name, long_name in input_maps(config).items() if has_gradient else ():
        add(name, long_name, "float32")


def input_maps(config: Config) -> dict[str, str]:
    """What is kept of an input beside its value: long names by name."""
    gradient = _gradient_of("input", config)
    maps = {"gradient": gradient}
    if "integrated" in config.inputs.methods:
        maps["integrated_gradient"] = f"input times the mean {gradient}, on the line from zero (integrated gradients)"
    if "smoothed" in config.inputs.methods:
        maps["smoothed_gradient"] = f"mean {gradient}, over noisy copies (SmoothGrad)"
    if "randomised" in config.inputs.methods:
        maps |= {f"{name}_randomised": f"{long}, under randomised weights" for name, long in maps.items()}
    return maps


def _add_parameter(arrays: Arrays, group: str, shape: tuple[int, ...], config: Config) -> None:
    names = (*(f"d{i}" for i in range(len(shape) - 1)), "neuron")[-len(shape) :] if shape else ()
    sizes = dict(zip(names, shape, strict=True))
    for quantity in config.parameters.quantities:
        long_name = LONG_NAMES.get(quantity) or _gradient_of("parameter", config)
        if quantity == "update" and config.train is None and len(config.steps) > 1:
            long_name = "change of the parameter since the checkpoint before"
        _add_summary(arrays, f"{group}/summary", quantity, config.steps, {"neuron": sizes.get("neuron", 1)}, long_name)
        if config.parameters.keep == "full":
            attrs = {"long_name": long_name, "units": "1"}
            arrays.add(f"{group}/full/{quantity}", sizes, step=config.steps[-1:], attrs=attrs)
