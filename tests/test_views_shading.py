"""Shading: counts are all points and lines, and the winner of a pixel is the largest score in it."""

import holoviews as hv
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from actigrad.views.shading import live, padded, shade_labels, shade_lines, shade_points

WINDOW = (0.0, 4.0), (0.0, 3.0)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 200))
def test_the_winner_of_a_pixel_has_the_largest_score_of_the_points_in_it(seed, n):
    random = np.random.default_rng(seed)
    x, y, score = random.random(n) * 4, random.random(n) * 3, random.permutation(n).astype(float)
    shaded = shade_points(x, y, score, WINDOW, (3, 4))
    count, winner = shaded["count"].values, shaded["winner"].values
    for row in range(3):
        for column in range(4):
            inside = np.flatnonzero((np.floor(x) == column) & (np.floor(y) == row))
            assert count[row, column] == inside.size
            assert winner[row, column] == (inside[score[inside].argmax()] if inside.size else -1)


def test_a_line_passes_every_column_and_a_missing_value_breaks_it():
    lines = np.array([[0.5, 0.5, 0.5], [2.5, np.nan, 2.5]])
    shaded = shade_lines(np.array([0.0, 2.0, 4.0]), lines, np.array([1.0, 2.0]), WINDOW, (3, 4))
    assert (shaded["count"].values[0] == 1).all()
    assert (shaded["winner"].values[0] == 0).all()
    assert shaded["count"].values[2, 1:3].sum() == 0


def test_labels_are_counted_apart():
    counts = shade_labels(np.array([0.5, 0.5, 1.5]), np.full(3, 0.5), np.array([7, 9, 7]), WINDOW, (3, 4))
    assert counts.sel(label=7).values.tolist()[0] == [1, 1, 0, 0]
    assert counts.sel(label=9).values.sum() == 1


def test_a_live_picture_is_drawn_once_a_zoom_for_what_is_seen():
    asked = []

    def draw(window, pixels):
        asked.append((window, pixels))
        return hv.Points([(1, 1)])

    view = live(draw, WINDOW, dynamic=True, pixels=(10, 20))
    view[()]
    range_, size = view.streams
    size.event(width=30, height=40, scale=1.0)
    range_.event(x_range=(2.0, 1.0), y_range=(None, None))
    view[()]
    assert asked[0] == (WINDOW, (10, 20))
    assert asked[-1] == (((1.0, 2.0), WINDOW[1]), (40, 30))
    assert len(asked) == 2


def test_a_range_is_a_little_wider_than_what_is_in_it():
    low, high = padded(np.array([1.0, np.nan, 3.0, np.inf]))
    assert 0.8 < low < 1
    assert 3 < high < 3.2
    assert padded(np.array([np.nan])) == (0.0, 1.0)
    assert padded(np.array([2.0]))[0] < 2 < padded(np.array([2.0]))[1]
