"""The colours of a site's quantity are read from its store: one scale at a step, another over the steps."""

import numpy as np
import xarray

from actigrad.metrics import METRICS, bin_edges
from actigrad.pictures import scales
from actigrad.pictures.scales import read_scale

EDGES = np.asarray(bin_edges())


def group_of(values):
    """The summaries of (step, sample, neuron), as a store has them."""
    places = np.abs(values).argmax(1)[:, None]
    found = {"extreme": np.take_along_axis(values, places, 1)[:, 0], "mean": values.mean(1)}
    summary = np.full((len(values), len(METRICS), values.shape[2]), np.nan, np.float32)
    for name, statistic in found.items():
        summary[:, METRICS.index(name)] = statistic
    counts = np.stack([np.histogram(step[step != 0], EDGES)[0] for step in values])
    special = np.zeros((len(values), 4))
    return xarray.Dataset(
        {
            "gradient": (("step", "metric", "neuron"), summary),
            "gradient_histogram": (("step", "bin"), counts),
            "gradient_special": (("step", "special"), special),
            "bin_left": ("bin", EDGES[:-1]),
            "bin_right": ("bin", EDGES[1:]),
        }
    )


VALUES = np.random.default_rng(0).normal(size=(8, 400, 30)) * np.linspace(3, 1, 8)[:, None, None]


def test_a_picture_over_steps_is_not_all_beyond_its_colours():
    group = group_of(VALUES)
    extremes = np.abs(group["gradient"].isel(metric=METRICS.index("extreme")).values)
    over_steps, last = read_scale(group, "gradient", None), read_scale(group, "gradient", 7)
    assert np.mean(extremes > over_steps.high) < 0.02
    assert np.mean(extremes[:4] > last.high) > 0.5, "so the scale of single values would not do"
    assert over_steps.elements == "extremes"


def test_a_picture_at_a_step_has_the_colours_of_that_steps_values():
    group = group_of(VALUES)
    first, last = (read_scale(group, "gradient", index) for index in (0, 7))
    assert first.high > 2 * last.high
    assert np.mean(np.abs(VALUES[7]) > last.high) <= 1e-3
    assert last.elements == "values"


def test_means_over_steps_have_colours_of_their_own():
    scale = read_scale(group_of(VALUES), "gradient", None, statistic="mean")
    assert scale.high < read_scale(group_of(VALUES), "gradient", None).high / 5
    assert scale.elements == "means"


def test_of_more_statistics_than_fit_evenly_spaced_steps_are_looked_at(monkeypatch):
    group = group_of(np.repeat(VALUES, 10, 0))
    whole = read_scale(group, "gradient", None)
    monkeypatch.setattr(scales, "READ", 8 * 30)
    np.testing.assert_allclose(read_scale(group, "gradient", None).high, whole.high, rtol=0.1)
