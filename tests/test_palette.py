"""Colours belong to the run: limits come from the stored histogram, never from the window."""

import numpy as np
import pytest

from actigrad.metrics import bin_edges
from actigrad.pictures.palette import (
    CLIPPED_SHARE,
    CLIPPED_STATISTICS,
    DIVERGING,
    NOT_FINITE,
    SEQUENTIAL,
    Scale,
    make_scale,
    make_scale_of_statistics,
)

EDGES = np.asarray(bin_edges())


def scale_of(values):
    counts = np.histogram(values[values != 0], EDGES)[0]
    extremes = values[[np.abs(values).argmax()]]
    return make_scale(counts, int((values == 0).sum()), EDGES[:-1], EDGES[1:], extremes)


def test_a_signed_quantity_is_symmetric_about_zero_and_an_unsigned_one_begins_there():
    values = np.random.default_rng(0).normal(size=10_000)
    signed, unsigned = scale_of(values), scale_of(np.abs(values))
    assert (signed.low, signed.colours) == (-signed.high, DIVERGING)
    assert (unsigned.low, unsigned.colours) == (0, SEQUENTIAL)


@pytest.mark.parametrize("heavy", [0, 5, 100])
def test_the_share_beyond_the_limits_is_small_and_is_told(heavy):
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(size=100_000 - heavy), 1e4 * (1 + random.random(heavy))])
    scale = scale_of(values)
    beyond = np.mean(np.abs(values) > scale.high)
    assert scale.clipped <= CLIPPED_SHARE
    np.testing.assert_allclose(scale.clipped, beyond, atol=1e-9)
    assert ("beyond" in scale.text()) == (scale.clipped > 0)


@pytest.mark.parametrize(("beyond", "clipped"), [(9, True), (11, False)])
def test_of_ten_thousand_values_at_most_ten_lie_beyond_zeros_counted(beyond, clipped):
    scale = scale_of(np.concatenate([np.zeros(9000), np.ones(1000 - beyond), np.full(beyond, 1e4)]))
    assert (scale.high < 2) == clipped
    assert scale.clipped == (beyond / 1e4 if clipped else 0)


def test_the_largest_value_bounds_the_scale_where_its_bin_goes_on():
    assert scale_of(np.array([0.5, 1.1, 1.2])).high == 1.2


def test_positive_values_too_small_for_any_bin_are_not_signed():
    scale = scale_of(np.array([1e-13, 1.0]))
    assert (scale.low, scale.colours) == (0, SEQUENTIAL)


def test_all_zeros_have_a_scale_too():
    assert scale_of(np.zeros(5)) == Scale(0.0, 1.0, SEQUENTIAL, 0.0)


@pytest.mark.parametrize(("found", "high"), [([np.nan, -2.0], 2), ([np.inf, 3.0], 3), ([np.nan], 1)])
def test_what_is_not_finite_bounds_nothing(found, high):
    counts = np.histogram([-2.0, 3.0], EDGES)[0]
    scale = make_scale(counts, 0, EDGES[:-1], EDGES[1:], np.asarray(found))
    assert (scale.low, scale.high, scale.colours) == (-high, high, DIVERGING)


def test_a_share_that_would_be_rounded_to_nothing_is_told():
    assert Scale(0.0, 1.0, SEQUENTIAL, 1e-6).text().endswith("; under 0.01% of all values lie beyond")
    assert Scale(0.0, 1.0, SEQUENTIAL, 0.00123, "extremes").text().endswith("; 0.12% of all extremes lie beyond")
    assert "beyond" not in Scale(0.0, 1.0, SEQUENTIAL, 0.0).text()


def test_one_of_a_hundred_extremes_lies_beyond_and_dead_neurons_change_nothing():
    extremes = np.random.default_rng(0).standard_t(3, size=(20, 500))
    extremes[0, 0] = np.inf
    scale = make_scale_of_statistics(extremes, "extremes")
    finite = np.abs(extremes[np.isfinite(extremes)])
    np.testing.assert_allclose(np.mean(finite > scale.high), CLIPPED_STATISTICS, atol=1e-3)
    assert (scale.low, scale.clipped) == (-scale.high, np.mean(finite > scale.high))
    dead = make_scale_of_statistics(np.concatenate([extremes, np.zeros((1000, 500))]), "extremes")
    assert dead.high == scale.high


@pytest.mark.parametrize("nothing", [np.zeros(3), np.full(3, np.nan), np.zeros(0)])
def test_extremes_of_nothing_have_a_scale_too(nothing):
    assert make_scale_of_statistics(nothing, "extremes") == Scale(0.0, 1.0, SEQUENTIAL, 0.0, "extremes")


def test_what_is_not_finite_has_a_colour_that_no_map_holds():
    assert NOT_FINITE not in DIVERGING + SEQUENTIAL
