"""The inputs and what in them matters (`saliency`): images by pixel, text by token."""

from collections.abc import Callable, Sequence
from typing import Any

import holoviews as hv
import numpy as np
from scipy.stats import rankdata

from actigrad.errors import ViewError
from actigrad.pictures.palette import DIVERGING, NOT_FINITE
from actigrad.storage.store import read_samples, read_sites
from actigrad.views.images import find_inputs, sample_title
from actigrad.views.places import Place, loops_of
from actigrad.views.reading import Store, open_tree, read_full, read_place, require
from actigrad.views.style import INK, dress, elide

TIMES_INPUT = "gradient_times_input"
METHODS = {
    "gradient": "gradient", TIMES_INPUT: "gradient × input", "integrated_gradient": "integrated gradients",
    "smoothed_gradient": "smoothed gradient",
}  # fmt: skip
SUMMED = (TIMES_INPUT, "integrated_gradient")
"""Maps whose channels add up to what the input contributes."""
CELLS, LETTER = 780, 0.85
"""Pixels that all cells of a row of tokens share; pixels that a letter takes of each point of its size."""


def saliency(
    store: Store, *, samples: Sequence[int] | None = None, methods: Sequence[str] | None = None,
    name: str | None = None, site: str | None = None, decode: Callable[[int], str] | None = None,
) -> hv.Overlay:  # fmt: skip
    """Inputs on top, and below them what in each matters: its gradient, and further maps where the store has them.

    Red: raising this pixel raises what the gradient is of (the loss, or the run's objective), blue: lowers it; bright
    green is not finite. Each map has its own symmetric scale, up to the value above it (±), as gradients of well and
    badly classified samples differ by orders of magnitude. Channels are added in gradient × input and integrated
    gradients; of gradients the channel of largest magnitude is shown. Below each map stands its control, the same map
    under randomised weights, with ρ, the rank correlation of the magnitudes of both: a map that tells of what the
    model has learned differs from its control (ρ near 0). Hover gives the values.

    Where the input is tokens: a row a sample, a cell a token, the colour the gradient times the activation at a site,
    summed over its neurons: how much the token's vector there contributes. There is no control of it.

    Args:
        store: a store, or the path of one; made with `inputs: {keep: full}`.
        samples: which ones; by default that of the largest loss of each label, or the ten of the largest loss.
        methods: gradient, gradient_times_input, integrated_gradient, smoothed_gradient; by default all that the store
            has (`inputs: {methods: [integrated, smoothed, randomised]}`).
        name: of the input; by default the first that has a gradient.
        site: for tokens: where; by default the first site by position that was kept whole.
        decode: for tokens: from a token to its text; by default characters of bytes, or else numbers.
    """
    tree = open_tree(store)
    inputs = find_inputs(tree)
    tokens = {name: node for name, node in inputs.items() if "gradient" not in node and node["value"].ndim == 3}
    images = {name: node for name, node in inputs.items() if "gradient" in node}
    if site is not None or name in tokens or (name is None and tokens and not images):
        return _tokens(tree, tokens, name, site, samples, decode)
    if not images or (name is not None and name not in images):
        raise ViewError(
            f"the store holds no input {name or ''!r} with its gradient (it has {list(images)}); set "
            "inputs: {keep: full}."
        )
    name = name or next(iter(images))
    group = images[name].to_dataset().isel(step=-1)
    if "y" not in group["value"].dims:
        raise ViewError(f"saliency shows images or tokens; input {name!r} has dims {dict(group['value'].sizes)}.")
    known = [method for method in METHODS if method == TIMES_INPUT or method in group]
    chosen = [require("method", method, known) for method in (known if methods is None else methods)]
    return _images(tree, group, list(samples) if samples is not None else _hardest(tree), chosen)


def _images(tree, group: Any, samples: list[int], methods: list[str]) -> hv.Overlay:
    value = group["value"].isel(sample=samples).transpose("sample", "y", "x", "neuron").values
    (h, w), wall = value.shape[1:3], _Wall(value.shape[1:3])
    wall.add("input", [sample_title(tree, sample) for sample in samples])
    controlled = "gradient_randomised" in group
    for method in methods:
        maps = _read_map(group, samples, method, "")
        limits = [float(np.abs(one[np.isfinite(one)]).max(initial=0)) or 1.0 for one in maps]
        wall.add(METHODS[method], [f"±{limit:.2g}" for limit in limits], maps, limits)
        if controlled:
            others = _read_map(group, samples, method, "_randomised")
            ends = [float(np.abs(one[np.isfinite(one)]).max(initial=0)) or 1.0 for one in others]
            ranks = [f"ρ {rank_correlation(a, b):.2f}" for a, b in zip(maps, others, strict=True)]
            wall.add("the same under\nrandomised weights", ranks, others, ends)
    pictures = [_picture(one, wall.corner(0, j), w, h) for j, one in enumerate(value)]
    control = "" if controlled else "; no control in this store: inputs: {methods: [randomised]}"
    return wall.draw(pictures, [f"what in the input matters: gradients of {tree.attrs['gradients_of']}{control}"])


def _read_map(group: Any, samples: list[int], method: str, suffix: str) -> np.ndarray:
    """(sample, y, x) of one method, its channels reduced to one."""
    read = lambda name: (
        group[name].isel(sample=samples).transpose("sample", "y", "x", "neuron").values.astype(np.float64)
    )
    maps = read("value") * read(f"gradient{suffix}") if method == TIMES_INPUT else read(f"{method}{suffix}")
    if method in SUMMED:
        return maps.sum(-1)
    best = np.where(np.isfinite(maps), np.abs(maps), np.inf).argmax(-1)
    return np.take_along_axis(maps, best[..., None], -1)[..., 0]


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, of magnitudes; NaN where one of both is constant.

    >>> float(rank_correlation(np.array([1.0, -2.0, 3.0]), np.array([10.0, 20.0, -30.0])))
    1.0
    """
    ranks = [rankdata(np.abs(one).ravel()) for one in (a, b)]
    if any(one.std() == 0 for one in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


class _Wall:
    """Rows of tiles, each row with a name on its left, each tile with a text above it."""

    def __init__(self, tile: tuple[int, ...]):
        self.h, self.w = tile
        self.gap = max(2.0, 0.34 * self.h), max(1.0, 0.16 * self.w)
        self.names: list[str] = []
        self.texts: list[list[str]] = []
        self.maps: list[tuple[int, np.ndarray, list[float]]] = []

    def add(self, name: str, texts: list[str], maps: np.ndarray | None = None, limits: Sequence[float] = ()) -> None:
        """A row; `maps` (tile, y, x) are coloured up to their `limits`."""
        if maps is not None:
            self.maps.append((len(self.names), maps, list(limits)))
        self.names.append(name)
        self.texts.append(texts)

    def corner(self, row: int, column: int) -> tuple[float, float]:
        """Left and top of a tile; y falls."""
        return column * (self.w + self.gap[1]), -row * (self.h + self.gap[0])

    def draw(self, pictures: list[Any], title: list[str]) -> hv.Overlay:
        """All of it, with the pictures of the first row."""
        columns, rows = len(self.texts[0]), len(self.names)
        parts, texts, names = list(pictures), [], []
        for i, row in enumerate(self.texts):
            for j, text in enumerate(row):
                left, top = self.corner(i, j)
                texts.append((left + self.w / 2, top + 0.13 * self.h, text))
            names.append((-0.8 * self.gap[1], self.corner(i, 0)[1] - self.h / 2, self.names[i]))
        for i, maps, limits in self.maps:
            for j, (one, limit) in enumerate(zip(maps, limits, strict=True)):
                parts.append(_tile(one, limit, self.corner(i, j)))
        left, bottom = self.corner(rows - 1, columns - 1)
        style: dict[str, Any] = {"text_font_size": "9pt", "text_color": INK}
        parts += [
            dress(hv.Labels(texts, ["x", "y"], "text"), **style),
            dress(hv.Labels(names, ["x", "y"], "text"), text_align="right", **style),
        ]
        span = left + self.w + 2.1 * self.w  # the names take about two tiles on the left
        height = 880 / span * (self.h * 0.4 - bottom + self.h + self.gap[0]) + 60
        return dress(
            hv.Overlay(parts), height=int(np.clip(height, 240, 1600)), xaxis=None, yaxis=None, show_legend=False,
            xlim=(-2.1 * self.w, left + self.w + 0.3), ylim=(bottom - self.h - 0.5, 0.42 * self.h), title=title,
        )  # fmt: skip


def _tile(values: np.ndarray, limit: float, corner: tuple[float, float]) -> Any:
    (h, w), (left, top) = values.shape, corner
    image = hv.Image(values, bounds=(left, top - h, left + w, top), kdims=["x", "y"], vdims="map")
    return dress(
        image, cmap=DIVERGING, clim=(-limit, limit), tools=["hover"], clipping_colors={"NaN": NOT_FINITE}
    )  # fmt: skip


def _picture(values: np.ndarray, corner: tuple[float, float], w: int, h: int) -> Any:
    """(y, x, channel) as grey or in colour; of other numbers of channels the first."""
    left, top = corner
    bounds = (left, top - h, left + w, top)
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if values.shape[-1] == 3:
        return dress(hv.RGB((values - low) / ((high - low) or 1.0), bounds=bounds, kdims=["x", "y"]))
    image = hv.Image(values[..., 0], bounds=bounds, kdims=["x", "y"], vdims="input")
    return dress(image, cmap="gray_r", clim=(min(low, 0.0), high if high > low else low + 1.0), tools=["hover"])


def _tokens(tree, tokens: dict[str, Any], name: str | None, site: str | None, samples, decode) -> hv.Overlay:
    if not tokens or (name is not None and name not in tokens):
        raise ViewError(
            f"the store holds no tokens {name or ''!r} (it has {list(tokens)}); set inputs: {{keep: full}}."
        )
    name = name or next(iter(tokens))
    place = read_place(tree, site).narrowed() if site else _first_by_position(tree)
    product = read_full(tree, place, "gradient", None) * read_full(tree, place, "activation", None)
    if set(product.dims) != {"sample", "position", "neuron"}:
        raise ViewError(f"tokens are attributed at a site by position; {place.name!r} has dims {list(product.dims)}.")
    chosen = list(samples) if samples is not None else _hardest(tree)[:6]
    values = product.isel(sample=chosen).sum("neuron").transpose("sample", "position").values.astype(np.float64)
    ids = tokens[name]["value"].isel(step=-1, sample=chosen).values
    if values.shape != ids.shape:
        raise ViewError(
            f"site {place.name!r} has {values.shape[1]} positions and input {name!r} {ids.shape[1]} tokens."
        )
    decode = decode or (chr if ids.max() < 256 else str)
    limits = [float(np.abs(row[np.isfinite(row)]).max(initial=0)) or 1.0 for row in values]
    text = [[decode(int(one)) for one in row] for row in ids]
    cells = [
        (j - 0.5, i - 0.45, j + 0.5, i + 0.45, values[i, j] / limits[i], values[i, j], int(ids[i, j]), text[i][j])
        for i, j in np.ndindex(values.shape)
    ]
    dims = ["map colour", hv.Dimension("map", label="gradient × activation"), "token", "text"]
    boxes = dress(
        hv.Rectangles(cells, vdims=dims), color=hv.dim("map colour"), cmap=DIVERGING, clim=(-1, 1),
        line_color="#ffffff", tools=["hover"], clipping_colors={"NaN": NOT_FINITE},
    )  # fmt: skip
    words, size = _fitting(text, CELLS / values.shape[1])
    strong = np.abs(values) > 0.6 * np.array(limits)[:, None]
    for chosen_cells, colour in ((np.argwhere(~strong), INK), (np.argwhere(strong), "#ffffff")):
        labels = hv.Labels([(j, i, words[i][j]) for i, j in chosen_cells], ["x", "y"], "text")
        boxes *= dress(labels, text_color=colour, text_font_size=size)
    told = [f"{sample_title(tree, one)} ±{limit:.2g}" for one, limit in zip(chosen, limits, strict=True)]
    return dress(
        boxes, height=110 + 42 * len(chosen), invert_yaxis=True, xlabel="position", ylabel="",
        yticks=list(enumerate(told)), xlim=(-0.5, values.shape[1] - 0.5), ylim=(-0.5, len(chosen) - 0.5),
        show_legend=False,
        title=[f"what in {name} matters: gradient × activation at {place.name}, summed over its neurons; gradients of "
               f"{tree.attrs['gradients_of']}", "each row has its own scale, up to the value on its left"],
    )  # fmt: skip


def _fitting(texts: list[list[str]], room: float) -> tuple[list[list[str]], str]:
    """Texts and a font size with which each has room for itself, in pixels; what is still too long is cut."""
    longest = max((len(word) for row in texts for word in row), default=1) or 1
    size = int(np.clip(room / longest / LETTER, 6, 9))
    most = max(1, int(room / size / LETTER))
    return [[elide(_visible(word), most) for word in row] for row in texts], f"{size}pt"


def _visible(text: str) -> str:
    return {" ": "␣", "\n": "⏎", "\t": "⇥"}.get(text, text if text.isprintable() else "·")


def _first_by_position(tree) -> Place:
    """The first site with a vector for each position that was kept whole with its gradient."""
    for site in read_sites(tree):
        if site.dims == ("sample", "position", "neuron") and not loops_of(site):
            try:
                read_full(tree, Place(site), "gradient", None)
                read_full(tree, Place(site), "activation", None)
            except ViewError:
                continue
            return Place(site)
    raise ViewError("no site by position was kept whole with its gradient; capture the embedding with keep: full.")


def _hardest(tree) -> list[int]:
    """For each label the sample with the largest loss at the last step; without labels the ten largest."""
    loss = read_samples(tree)["loss"].isel(step=-1).values
    if "label" not in read_samples(tree):
        return np.argsort(-loss)[:10].tolist()
    labels = read_samples(tree)["label"].values
    return [int(np.flatnonzero(labels == one)[loss[labels == one].argmax()]) for one in np.unique(labels)[:10]]
