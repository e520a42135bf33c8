"""Which connections learn: a weight matrix, its gradient or its update (`weights`)."""

from typing import Any

import numpy as np

from actigrad.errors import ViewError, nearest
from actigrad.pictures.order import natural_order, score_order
from actigrad.storage.names import site_group
from actigrad.storage.store import read_samples, read_sites
from actigrad.views.matrix import PIXELS, about_zero, matrix
from actigrad.views.places import LOOP, loops_of
from actigrad.views.reading import Store, find_group, find_step, open_tree, require

QUANTITIES = ("value", "gradient", "update")
ORDERS = ("natural", "score")
OUT_FIRST = ("weight",)
"""Names of parameters whose first axis is what they make and whose second is what they read (Equinox, PyTorch)."""


def weights(
    store: Store, site: str, *, quantity: str = "value", step: int | None = None, order: str = "natural",
    dynamic: bool = True, pixels: tuple[int, int] = PIXELS,
) -> Any:  # fmt: skip
    """Output neurons from the top down, input neurons from left to right: one connection a cell.

    The quantity is the parameter's value, its gradient summed over the captured samples, or its change by the last
    update. Of a convolution each cell is the signed extreme (the value of largest magnitude) over the kernel's places.
    The scale is symmetric about zero, up to the largest magnitude. Hover gives both neurons and the value.

    Args:
        store: a store, or the path of one; made with `parameters: {keep: full}`.
        site: the path of a parameter of two axes or more, or of the site that has one; inside a loop one layer of
            it, as `path[3]` (the last by default).
        quantity: value, gradient or update.
        step: a recorded step at which parameters were kept whole: the last.
        order: of the output neurons: natural, or score (by the rms of their weights, largest first).
        dynamic: a DynamicMap that aggregates anew on zoom, or one static image.
        pixels: (along y, along x) of the static image, and until the plot's size is known.
    """
    tree = open_tree(store)
    require("quantity", quantity, QUANTITIES)
    require("order", order, ORDERS)
    path, layer, values = _read(tree, site, quantity, step)
    rms = np.sqrt(np.nanmean(np.square(values.astype(np.float64)), axis=1))
    rows = score_order(rms, rms == 0) if order == "score" else natural_order(len(values))
    known = values[np.isfinite(values)]
    shown = read_samples(tree)["step"].values[find_step(tree, step)]
    long = {"value": "value", "gradient": "gradient summed over the samples", "update": "change by the last update"}
    return matrix(
        values[rows], ("out neuron", "in neuron"), ({"out neuron": rows}, {"in neuron": np.arange(values.shape[1])}),
        scale=about_zero(float(np.abs(known).max()) if known.size else 1.0),
        title=[f"{path}{layer} · {long[quantity]} at step {shown}: {values.shape[0]} out × {values.shape[1]} in, "
               f"{order} order"],
        dynamic=dynamic, pixels=pixels,
    )  # fmt: skip


def _read(tree, site: str, quantity: str, step: int | None) -> tuple[str, str, np.ndarray]:
    """The parameter's path, its layer as `[3]` or "", and its values (out, in)."""
    parts = LOOP.fullmatch(site)
    wanted, at = (parts["path"], parts["at"]) if parts else (site, None)
    shapes = _shapes(tree)
    path = _choose(wanted, shapes)
    group = find_group(tree, f"{site_group(path, 'parameters')}/full")
    if quantity not in group:
        raise ViewError(f"the {quantity} of parameter {path!r} was not kept whole; set parameters: {{keep: full}}.")
    kept, now = group["step"].values.tolist(), int(read_samples(tree)["step"].values[find_step(tree, step)])
    if now not in kept:
        raise ViewError(f"parameters were kept whole at steps {kept}, not at {now}.")
    values, layer = group[quantity].isel(step=kept.index(now)).values, ""
    loops = _loops(tree, path, values.shape)
    if loops:
        index = tuple(map(int, at.split(","))) if at else tuple(size - 1 for size in loops)
        if len(index) != len(loops) or any(not -n <= i < n for i, n in zip(index, loops, strict=False)):
            raise ViewError(f"{site!r} asks for iteration {index}; parameter {path!r} has {loops}.")
        values, layer = values[index], f"[{','.join(str(i % n) for i, n in zip(index, loops, strict=True))}]"
    elif at:
        raise ViewError(f"{site!r} asks for iteration {at}; parameter {path!r} is in no loop.")
    return path, layer, _as_matrix(values, path)


def _shapes(tree) -> dict[str, tuple[int, ...]]:
    group = find_group(tree, "parameters")
    nodes = [node for node in group.subtree if "shape" in node.attrs] if len(group) else []
    return {node.attrs["path"]: tuple(node.attrs["shape"]) for node in nodes}


def _choose(wanted: str, shapes: dict[str, tuple[int, ...]]) -> str:
    """The parameter of that path, or the one with two axes of the site of that path."""
    if wanted in shapes and len(shapes[wanted]) >= 2:
        return wanted
    held = [path for path, shape in shapes.items() if path.rpartition("/")[0] == wanted and len(shape) >= 2]
    if held:
        return max(held, key=lambda path: (len(shapes[path]), np.prod(shapes[path])))
    matrices = [path for path, shape in shapes.items() if len(shape) >= 2]
    near = ", ".join(nearest(wanted, [*matrices, *{p.rpartition("/")[0] for p in matrices}]) or matrices[:8])
    raise ViewError(f"the store has no weight matrix {wanted!r}. The nearest: {near or 'none was kept'}.")


def _loops(tree, path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The loops whose iterations each have their own: those around the parameter's site, in front of its shape."""
    around = {site.path: loops_of(site) for site in read_sites(tree)}
    parent = path
    while parent:
        parent = parent.rpartition("/")[0]
        loops = around.get(parent, ())
        if loops and shape[: len(loops)] == loops and len(shape) >= len(loops) + 2:
            return loops
    return ()


def _as_matrix(values: np.ndarray, path: str) -> np.ndarray:
    """(out, in); the places of a kernel are reduced to the value of largest magnitude."""
    if path.rpartition("/")[2] in OUT_FIRST:
        flat = values.reshape(*values.shape[:2], -1)
    else:
        flat = np.moveaxis(values, (-1, -2), (0, 1)).reshape(values.shape[-1], values.shape[-2], -1)
    best = np.where(np.isfinite(flat), np.abs(flat), np.inf).argmax(-1)
    return np.take_along_axis(flat, best[..., None], -1)[..., 0]
