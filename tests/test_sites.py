"""Sites and the patterns that choose them."""

import pytest

from actigrad.errors import CaptureError, NoSuchSite
from actigrad.sites import Site, choose, infer_dims, outermost

PATHS = ("conv1", "conv2", "head/0", "head/1", "head/1#1", "encoder/layers/10/mlp", "encoder/layers/2/mlp", "mlp")
SITES = tuple(
    Site(path, (8, 4), "float32", ("sample", "neuron"), "Conv" if "conv" in path else "Linear") for path in PATHS
)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**", PATHS),
        ("conv*", PATHS[:2]),
        ("conv[12]", PATHS[:2]),
        ("conv?", PATHS[:2]),
        ("*", ("conv1", "conv2", "mlp")),
        ("head/*", PATHS[2:5]),
        ("head/{0,1}", PATHS[2:4]),
        ("{conv1,head/0}", ("conv1", "head/0")),
        ("{conv,ml}{1,p}", ("conv1", "mlp")),
        ("{head/{0,1},mlp}", (*PATHS[2:4], "mlp")),
        ("**/mlp", PATHS[5:]),
        ("encoder/**", PATHS[5:7]),
        ("encoder/layers/[0-9]/mlp", PATHS[6:7]),
        ("type:Conv", PATHS[:2]),
        ("type:L*", PATHS[2:]),
        (r"re:.*\d", ("conv1", "conv2", "head/0", "head/1", "head/1#1")),
    ],
)
def test_a_pattern_chooses_these_sites_in_forward_order(pattern, expected):
    assert tuple(site.path for site in choose(SITES, pattern)) == tuple(expected)


@pytest.mark.parametrize("pattern", ["**", "*", "a?b", "{**,none}", "type:*", "re:a\nb"])
def test_a_name_with_a_line_break_is_matched_as_any_other(pattern):
    site = Site("a\nb", (8, 4), "float32", ("sample", "neuron"), "My\nkind")
    assert choose((site,), pattern) == (site,)


def test_exclusion_takes_sites_out_again():
    assert [site.path for site in choose(SITES, ["head/*", "conv1"], exclude="**/1*")] == ["conv1", "head/0"]


@pytest.mark.parametrize(
    ("pattern", "shown"),
    [("cnov1", "'conv1'"), ("type:Convv", "'Conv'"), ("hed/0", "'head/0'"), ("head?0", "'head/0'"),
     ("zzz", "of 8 sites: 'conv1', 'conv2'"), ("type:zzz", "of 2 kinds of module: 'Conv', 'Linear'")],
)  # fmt: skip
def test_a_pattern_that_matches_nothing_names_the_nearest(pattern, shown):
    with pytest.raises(NoSuchSite, match=shown):
        choose(SITES, pattern)


def test_an_exclusion_that_matches_nothing_is_an_error_too():
    with pytest.raises(NoSuchSite, match="'typo'"):
        choose(SITES, "**", exclude="typo")


def test_a_function_without_sites_says_how_to_name_one():
    with pytest.raises(NoSuchSite, match=r"actigrad\.tap"):
        choose((), "conv*")
    assert choose((), "**") == ()


def test_a_broken_regular_expression_is_told():
    with pytest.raises(CaptureError, match=r"re:\("):
        choose(SITES, "re:(")


@pytest.mark.parametrize(
    ("shape", "samples", "dims"),
    [
        ((), None, ()),
        ((8,), 8, ("sample",)),
        ((8, 3), 8, ("sample", "neuron")),
        ((8, 5, 3), 8, ("sample", "position", "neuron")),
        ((8, 5, 5, 3), 8, ("sample", "y", "x", "neuron")),
        ((8, 2, 5, 5, 3), 8, ("sample", "d1", "d2", "d3", "neuron")),
        ((7, 3), 8, ("d0", "neuron")),
        ((4,), None, ("neuron",)),
    ],
)
def test_dims_are_named_by_what_the_axes_are(shape, samples, dims):
    assert infer_dims(shape, samples) == dims


def test_bytes_and_shape_of_one_sample():
    site = Site("x", (3, 8, 5), "bfloat16", ("layer", "sample", "neuron"))
    assert (site.nbytes, site.sample_shape, site.differentiable) == (240, (3, 5), True)
    assert not Site("i", (8,), "int32", ("sample",)).differentiable
    assert Site("z", (8,), "complex64", ("sample",)).differentiable
    assert Site("q", (8,), "int4", ("sample",)).nbytes == 8  # a byte each, unpacked


LOOP = Site("blocks/mlp", (6, 8, 4), "float32", ("layer", "sample", "neuron"))


@pytest.mark.parametrize(
    ("patterns", "picked"),
    [
        ("blocks/mlp", None),
        ("blocks/*[2]", (2,)),
        ("**[-1]", (5,)),
        ("blocks/mlp[2:4]", (2, 3)),
        ("blocks/mlp[::2]", (0, 2, 4)),
        (["blocks/mlp[0]", "blocks/mlp[-1]"], (0, 5)),
        (["blocks/mlp[0]", "**"], None),
        (["**", "blocks/mlp[0]"], None),
    ],
)
def test_iterations_of_a_loop_can_be_chosen(patterns, picked):
    (site,) = choose([LOOP], patterns)
    assert site.picked == picked
    assert site.shape == ((len(picked) if picked else 6), 8, 4)


def test_brackets_are_a_character_class_where_there_is_no_loop():
    assert [site.path for site in choose((*SITES, LOOP), "conv[12]")] == ["conv1", "conv2"]


def test_brackets_in_a_regular_expression_are_its_own():
    beside = Site("blocks/mlp0", (8, 4), "float32", ("sample", "neuron"))
    assert [site.path for site in choose((beside, LOOP), "re:blocks/mlp[0]")] == ["blocks/mlp0"]


def test_an_iteration_that_a_loop_does_not_have_is_told_with_those_that_it_has():
    with pytest.raises(CaptureError, match=r"'blocks/mlp\[6\]'.* has 6 iterations, 0 to 5"):
        choose([LOOP], "blocks/mlp[6]")


def test_the_outermost_sites_are_within_no_other():
    paths = ["stem", "head/0", "head", "head#1", "alone/0", "deep/a/b", "deep"]
    sites = [Site(path, (8,), "float32", ("sample",)) for path in paths]
    assert [site.path for site in outermost(sites)] == ["stem", "head", "head#1", "alone/0", "deep"]
