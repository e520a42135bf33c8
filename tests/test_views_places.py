"""Places: loops unrolled in the order in which they run, names that lead back, and trees cut to fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actigrad.errors import ViewError
from actigrad.sites import Site
from actigrad.views.places import edges_of, find_place, places_of, rows_of


def site(path, *feeds, layers=None):
    loop = (layers,) if layers else ()
    return Site(path, (*loop, 2, 5), "float32", ("layer",) * bool(layers) + ("sample", "neuron"), feeds=feeds)


DECODER = [
    site("embed", "blocks/norm", "blocks"),
    site("blocks/norm", "blocks/mlp", layers=3),
    site("blocks/mlp", "blocks", layers=3),
    site("blocks", "head", layers=3),
    site("head", "loss"),
]


def names(places):
    return [place.name for place in places]


def test_a_loop_runs_all_its_sites_before_its_next_iteration():
    inner = [f"blocks{rest}[{i}]" for i in range(3) for rest in ("/norm", "/mlp", "")]
    assert names(places_of(DECODER)) == ["embed", *inner, "head"]


def test_two_loops_of_one_length_side_by_side_stay_two():
    sites = [site(f"{part}/{one}", layers=2) for part in ("encoder", "decoder") for one in ("a", "b")]
    assert names(places_of(sites)) == [f"{p}/{o}[{i}]" for p in ("encoder", "decoder") for i in (0, 1) for o in "ab"]
    named = [site("attention", layers=2), site("mlp", layers=2)]
    assert names(places_of(named)) == ["attention[0]", "mlp[0]", "attention[1]", "mlp[1]"]


def test_a_layer_stands_in_the_tree_behind_what_the_loops_sites_share():
    assert [place.segments for place in places_of(DECODER)[1:4]] == [
        ("blocks", "[0]", "norm"), ("blocks", "[0]", "mlp"), ("blocks", "[0]"),
    ]  # fmt: skip


def test_every_name_leads_back_to_its_place_and_a_negative_layer_counts_from_the_end():
    for place in places_of(DECODER):
        found = find_place(DECODER, place.name)
        assert (found.site.path, found.at) == (place.site.path, place.at)
    assert find_place(DECODER, "blocks[-1]").at == (2,)
    assert find_place(DECODER, "blocks").at == ()


@pytest.mark.parametrize(
    ("name", "told"),
    [("blocs", "blocks"), ("blocs[1]", "blocks"), ("blocks[3]", "loops of 3 iterations"), ("head[0]", "no loop")],
)
def test_a_place_that_is_not_there_is_told_with_the_nearest(name, told):
    with pytest.raises(ViewError, match=told):
        find_place(DECODER, name)


def test_the_flow_between_places_stays_in_its_layer_and_is_carried_to_the_next():
    edges = {(a.name, b.name if b else "loss") for a, b in edges_of(places_of(DECODER))}
    within = {(f"blocks/{a}[{i}]", f"blocks{b}[{i}]") for i in range(3) for a, b in (("norm", "/mlp"), ("mlp", ""))}
    carried = {(f"blocks[{i}]", f"blocks{b}[{i + 1}]") for i in range(2) for b in ("/norm", "")}
    ends = {("embed", "blocks/norm[0]"), ("embed", "blocks[0]"), ("blocks[2]", "head"), ("head", "loss")}
    assert edges == within | carried | ends


def test_a_tree_is_closed_from_the_bottom_up_and_opens_where_asked():
    places = places_of(DECODER)
    assert [row.name for row in rows_of(places, 11)] == names(places)
    closed = rows_of(places, 6)
    assert [row.name for row in closed] == ["embed", "blocks[0]", "blocks[1]", "blocks[2]", "head"]
    assert [len(row.places) for row in closed] == [1, 3, 3, 3, 1]
    assert closed[1].own.name == "blocks[0]"
    opened = rows_of(places, 6, [closed[2].segments])
    assert [row.name for row in opened] == [
        "embed", "blocks[0]", "blocks/norm[1]", "blocks/mlp[1]", "blocks[1]", "blocks[2]", "head",
    ]  # fmt: skip
    assert [row.name for row in rows_of(places, 3)] == ["embed", "blocks", "head"]


PATHS = st.lists(st.text("ab/", min_size=1, max_size=6), min_size=1, max_size=60, unique=True)


@given(paths=PATHS, most=st.integers(1, 70))
def test_rows_never_outnumber_the_room_and_hold_every_place_once(paths, most):
    places = places_of([site(path) for path in paths])
    rows = rows_of(places, most)
    assert len(rows) <= most
    held = [place.name for row in rows for place in row.places]
    assert sorted(held) == sorted(paths)


def test_thousands_of_sites_without_a_tree_become_runs_of_neighbours():
    rows = rows_of(places_of([site(f"s{i}") for i in range(5000)]), 40)
    assert len(rows) == 40
    assert rows[0].name == "s0 … s124"
