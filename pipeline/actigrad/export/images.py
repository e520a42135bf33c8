"""Images: heatmaps as PNG, in the colours that the views have, for tools that show pictures and nothing else.

    encode(draw_by_sample(series, index, scale))              # neurons from the top down, samples from left to right

A pixel is the signed extreme over the elements that it covers; what is not finite is loudly green.
"""

from io import BytesIO

import matplotlib.image
import numpy as np
from matplotlib.colors import to_rgb

from actigrad.export.series import Series
from actigrad.pictures.palette import NOT_FINITE, Scale
from actigrad.pictures.raster import rasterise

PIXELS = (256, 512)
READ_BYTES = 64 << 20


def draw_by_step(series: Series, scale: Scale) -> np.ndarray:
    """(height, width, 3): neurons by recorded steps."""
    view = rasterise(series.extremes().T, pixels=PIXELS)
    return _shade(view.extreme, view.nonfinite, scale)


def draw_by_sample(series: Series, step: int, scale: Scale) -> np.ndarray | None:
    """(height, width, 3): neurons by samples, or None where the site was not kept whole at that step."""
    if series.whole is None or step not in series.whole["step"].values:
        return None
    values = series.whole.sel(step=step).transpose("sample", ..., "neuron")
    n, row = values.sizes["sample"], max(1, values.nbytes // max(1, values.sizes["sample"]))
    factor = -(-n // PIXELS[1])
    span = factor * max(1, READ_BYTES // (row * factor))  # whole cells, so that blocks join without a seam
    views = [
        rasterise(
            _by_neuron(values[start : start + span].values), pixels=(PIXELS[0], -(-min(span, n - start) // factor))
        )
        for start in range(0, n, span)
    ]
    extreme, nonfinite = (np.hstack([getattr(view, name) for view in views]) for name in ("extreme", "nonfinite"))
    return _shade(extreme, nonfinite, scale)


def encode(picture: np.ndarray) -> bytes:
    """PNG; the cells of a small picture are repeated along each axis, as browsers would blur them."""
    tall, wide = (max(1, limit // size) for limit, size in zip(PIXELS, picture.shape, strict=False))
    file = BytesIO()
    matplotlib.image.imsave(file, picture.repeat(tall, 0).repeat(wide, 1), format="png")
    return file.getvalue()


def _by_neuron(values: np.ndarray) -> np.ndarray:
    """(neuron, sample) of (sample, …, neuron): over positions the signed extreme; NaN where any is not finite."""
    flat = values.reshape(values.shape[0], -1, values.shape[-1])
    high, low = flat.max(1), flat.min(1)  # NaN wins both
    return np.where(np.isnan(high) | (np.abs(low) <= np.abs(high)), high, low).T


def _shade(extreme: np.ndarray, nonfinite: np.ndarray, scale: Scale) -> np.ndarray:
    colours = np.array([to_rgb(colour) for colour in scale.colours])
    share = (np.nan_to_num(extreme) - scale.low) / (scale.high - scale.low)
    picture = colours[np.clip(share * len(colours), 0, len(colours) - 1).astype(int)]
    picture[(nonfinite > 0) | np.isnan(extreme)] = to_rgb(NOT_FINITE)
    return (255 * picture).round().astype(np.uint8)
