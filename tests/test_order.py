"""Orders are permutations, stable and deterministic."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from actigrad.pictures.order import label_order, natural_order, score_order


@given(arrays(np.int64, st.integers(1, 60), elements=st.integers(-3, 5)))
def test_samples_of_one_label_stand_together_in_their_own_order(labels):
    order, groups = label_order(labels)
    assert sorted(order) == list(range(len(labels)))
    for label, start, stop in groups:
        members = order[start:stop]
        assert (labels[members] == label).all()
        assert (np.diff(members) > 0).all()
    assert [g[0] for g in groups] == sorted(set(labels.tolist()))
    assert (groups[0][1], groups[-1][2]) == (0, len(labels))


@given(arrays(np.float32, st.integers(1, 60), elements=st.floats(-9, 9, width=32) | st.just(np.nan)), st.data())
def test_scores_fall_and_dead_neurons_come_last(score, data):
    dead = data.draw(arrays(np.bool_, len(score)))
    order = score_order(score, dead)
    assert sorted(order) == list(range(len(score)))
    assert (np.diff(dead[order].astype(int)) >= 0).all()
    for group in (order[~dead[order]], order[dead[order]]):
        known = score[group][~np.isnan(score[group])]
        assert (np.diff(known) <= 0).all()
        assert not np.isnan(score[group][: len(known)]).any()


def test_the_natural_order_is_as_they_come():
    assert natural_order(3).tolist() == [0, 1, 2]
