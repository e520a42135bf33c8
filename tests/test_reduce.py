"""Reductions against plain NumPy in float64, over any split into batches."""

from functools import cache

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from actigrad import reduce as reductions
from actigrad.errors import CaptureError
from actigrad.metrics import METRICS, SPECIAL, bin_edges, bin_magnitudes
from actigrad.reduce import (
    ActiveFraction,
    BottomK,
    Extremes,
    Full,
    Gram,
    Histogram,
    Pooled,
    Project,
    Reduction,
    Summary,
    Take,
    TopK,
)
from actigrad.reduce.base import on_finite
from actigrad.reduce.histogram import count_slots, count_slots_in_lanes, slots_of

STATISTICS = {
    "summary": Summary(),
    "active": ActiveFraction(0.5),
    "histogram": Histogram(),
    "extremes": Extremes(),
    "top": TopK(3),
    "bottom": BottomK(2),
    "gram": Gram(),
}
KEPT = {
    "full": Full(),
    "rounded": Full("bfloat16"),
    "mean": Pooled("mean"),
    "max": Pooled("max"),
    "projected": Project(2),
}
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
LAYOUTS = (
    ((), ("sample",)),
    ((3,), ("sample", "neuron")),
    ((2, 1, 4), ("sample", "y", "x", "neuron")),
    ((3, 2), ("sample", "neuron", "position")),
    ((0, 2), ("sample", "position", "neuron")),
)
SCALES = (1e-37, 1e-30, 1e-6, 1.0, 1e4, 1e30)
ODD = (0.0, -0.0, np.nan, np.inf, -np.inf, 1e-40, -1e-40, 1e-30, 3e38, -3e38, 1e-12, 0.5, -1e6)
TINY = float(np.finfo(np.float32).tiny)


@cache
def compiled(choice_name, dims):
    choice = {"statistics": STATISTICS, "kept": KEPT}[choice_name]
    return jax.jit(lambda x: reductions.chunk(choice, x, dims))


def states_of(choice_name, x, dims, sizes):
    """The states of consecutive batches of these sizes, along `sample`."""
    axis = dims.index("sample")
    parts = np.split(x, np.cumsum(sizes)[:-1], axis)
    return [jax.device_get(compiled(choice_name, dims)(jnp.asarray(part))) for part in parts]


@st.composite
def arrays(draw, odd=True, dtypes=tuple(DTYPES)):
    """(array, dims, batch sizes): normal deviates of some scale around some mean, with odd values strewn in."""
    dtype, (shape, dims) = DTYPES[draw(st.sampled_from(dtypes))], draw(st.sampled_from(LAYOUTS))
    sizes = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.normal(draw(st.sampled_from((0, 0, 1, 100))), 1, (sum(sizes), *shape)) * draw(st.sampled_from(SCALES))
    if odd:
        where = rng.random(x.shape) < draw(st.sampled_from((0, 0.1, 0.5, 1)))
        x = np.where(where, rng.choice(draw(st.lists(st.sampled_from(ODD), min_size=1)), x.shape), x)
    with np.errstate(over="ignore"):
        return x.astype(dtype), dims, sizes


def exact(x, dims):
    """float64 (sample, value, neuron); what backends flush to zero is zero."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        x = np.asarray(x, np.float64)
    x, left = np.moveaxis(x, dims.index("sample"), 0), [dim for dim in dims if dim != "sample"]
    x = np.moveaxis(x, 1 + left.index("neuron"), -1) if "neuron" in left else x[..., None]
    x = x.reshape(x.shape[0], int(np.prod(x.shape[1:-1])), x.shape[-1])
    return np.where(np.abs(x) < TINY, 0, x)


def rows(x, dims):
    """Every neuron's values, (n, neuron)."""
    x = exact(x, dims)
    return x.reshape(-1, x.shape[-1])


def check_summary(result, x, dims):
    for i, column in enumerate(rows(x, dims).T):
        v = column[np.isfinite(column)]
        found = {name: values[i] for name, values in result.items()}
        assert found.pop("nonfinite") == column.size - v.size
        if not v.size:
            assert np.isnan(list(found.values())).all()
            continue
        rms, low, high = np.sqrt(np.mean(v**2)), v.min(), v.max()
        assert found["mean"] == pytest.approx(v.mean(), rel=0, abs=1e-6 * rms + 1e-45)
        assert found["rms"] == pytest.approx(rms, rel=1e-6, abs=1e-45)
        # Values that are equal have no spread at all: an exact zero.
        assert found["std"] == pytest.approx(v.std() * (low < high), rel=1e-5, abs=2e-45)
        expected = [low, high, low if -low > high else high, np.mean(v == 0)]
        np.testing.assert_array_equal(
            [found[name] for name in ("min", "max", "extreme", "zero_fraction")], np.float32(expected)
        )


def check_active(result, x, dims):
    v = rows(x, dims)
    with np.errstate(invalid="ignore"):
        expected = (np.isfinite(v) & (v > 0.5)).sum(0) / np.isfinite(v).sum(0)
    np.testing.assert_array_equal(result, np.float32(expected))


def check_histogram(result, x, dims):
    v = rows(x, dims).reshape(-1)
    regular = v[np.isfinite(v) & (v != 0)]
    edges = np.float64(np.float32(bin_magnitudes()))
    rank = np.searchsorted(edges, np.abs(regular), side="right")
    expected = np.bincount(np.where(regular < 0, edges.size - rank, edges.size + rank), minlength=len(bin_edges()) - 1)
    np.testing.assert_array_equal(result["counts"], expected)
    special = {"zero": v == 0, "nan": np.isnan(v), "posinf": v == np.inf, "neginf": v == -np.inf}
    assert {name: int(result[name]) for name in SPECIAL} == {name: what.sum() for name, what in special.items()}


def check_ranked(result, x, dims, k, key):
    """Sort all samples by their best value; among equals the earlier one is first."""
    x = exact(x, dims)
    for i in range(x.shape[-1]):
        best = []
        for sample, values in enumerate(x[:, :, i]):
            finite = sorted(values[np.isfinite(values)], key=lambda v: (-key(v), -v))
            best += [(-key(v), sample, v) for v in finite[:1]]
        expected = [(v, sample) for _, sample, v in sorted(best)[:k]]
        expected += [(np.nan, -1)] * (k - len(expected))
        np.testing.assert_array_equal(result["sample"][i], [sample for _, sample in expected])
        np.testing.assert_array_equal(result["value"][i], np.float32([v for v, _ in expected]))


def check_gram(result, x, dims):
    v = rows(x, dims)
    whole = v[np.isfinite(v).all(1)]
    np.testing.assert_array_equal([result["count"], result["skipped"]], [len(whole), len(v) - len(whole)])
    if not len(whole):
        assert np.isnan(result["gram"]).all()
        return
    mean, deviations = whole.mean(0), whole - whole.mean(0)
    rms, std = np.sqrt((whole**2).mean(0)), deviations.std(0)
    near(result["mean"], mean, 1e-6 * rms)
    near(result["gram"], whole.T @ whole / len(whole), 1e-5 * rms[:, None] * rms)
    near(
        result["covariance"],
        deviations.T @ deviations / len(whole),
        1e-5 * std[:, None] * std + 1e-13 * np.outer(rms, rms),
    )


def near(found, expected, error):
    assert (np.abs(found - expected) <= error).all(), f"{found}\n is not\n{expected}\n within\n{error}"


def check_statistics(result, x, dims):
    check_summary(result["summary"], x, dims)
    check_active(result["active"], x, dims)
    check_histogram(result["histogram"], x, dims)
    check_ranked(result["top"], x, dims, 3, lambda v: v)
    check_ranked(result["bottom"], x, dims, 2, lambda v: -v)
    check_ranked({key: v[:, None] for key, v in result["extremes"].items()}, x, dims, 1, abs)
    check_gram(result["gram"], x, dims)


@given(arrays())
def test_a_statistic_of_batches_is_that_of_the_whole(drawn):
    x, dims, sizes = drawn
    state = reductions.combine(STATISTICS, states_of("statistics", x, dims, sizes))
    check_statistics(reductions.finalize(STATISTICS, state), x, dims)


@given(arrays(odd=False))
def test_arrays_that_are_kept_are_joined_sample_by_sample(drawn):
    x, dims, sizes = drawn
    assume(x.ndim > 1 and 0 not in x.shape[1:])  # others have nothing to project or to pool
    assume(np.isfinite(np.float64(x)).all())  # float16 overflows here; what Pooled makes of inf is tested below
    state = reductions.combine(KEPT, states_of("kept", x, dims, sizes))
    result, v = reductions.finalize(KEPT, state), np.asarray(x, np.float64)
    np.testing.assert_array_equal(np.asarray(result["full"], np.float64), v)
    np.testing.assert_array_equal(result["rounded"], x.astype(ml_dtypes.bfloat16).astype(np.float32))
    between = tuple(i for i, dim in enumerate(dims) if dim not in ("sample", "neuron"))
    size = np.abs(v).max(axis=between) if v.size else v.max(axis=between, initial=0)
    near(result["mean"], v.mean(axis=between), 1e-6 * size + 10 * TINY)
    near(result["max"], v.max(axis=between), TINY)
    neuron, matrix = dims.index("neuron"), np.float64(KEPT["projected"].matrix(x.shape[dims.index("neuron")]))
    projected = np.moveaxis(np.tensordot(v, matrix, (neuron, 0)), -1, neuron)
    near(result["projected"], projected, 1e-5 * np.abs(v).max(initial=0) + 10 * TINY)


@given(arrays(dtypes=("float32",)), st.data())
def test_how_states_are_paired_does_not_matter(drawn, data):
    x, dims, sizes = drawn
    states = states_of("statistics", x, dims, sizes)
    left = reductions.combine(STATISTICS, states)
    while len(states) > 1:
        i = data.draw(st.integers(0, len(states) - 2))
        states[i : i + 2] = [reductions.combine(STATISTICS, states[i : i + 2])]
    one, other = (reductions.finalize(STATISTICS, state) for state in (left, states[0]))
    size = np.nan_to_num(np.sqrt(np.diagonal(one["gram"]["gram"])))
    for name in ("gram", "covariance"):
        near(*(np.nan_to_num(result["gram"].pop(name)) for result in (one, other)), 1e-9 * np.outer(size, size))
    for value, expected in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-45)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", [*STATISTICS, *KEPT])
def test_a_loops_axes_stay_in_front_of_everything(name):
    one = (STATISTICS | KEPT)[name]
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 2, 4)).astype(np.float32)
    x[0, 1, 2, 0, 1] = np.nan
    dims = ("sample", "position", "neuron")
    first, second = jnp.asarray(x[:, :, :2]), jnp.asarray(x[:, :, 2:])
    whole = one.finalize(one.combine(*(one.chunk(part, ("shard", "layer1", *dims)) for part in (first, second))))
    for i, j in np.ndindex(2, 3):
        alone = one.finalize(one.combine(one.chunk(first[i, j], dims), one.chunk(second[i, j], dims)))
        for together, expected in zip(leaves(whole), leaves(alone), strict=True):
            np.testing.assert_allclose(together[i, j], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "int8", "uint32", "bool", "complex64"])
@pytest.mark.parametrize("name", [*STATISTICS, *KEPT])
def test_states_can_travel_as_cotangents(name, dtype):
    x = jax.ShapeDtypeStruct((2, 3, 4), jnp.dtype(dtype))
    one = (STATISTICS | KEPT)[name]
    state = jax.eval_shape(lambda x: one.chunk(x, ("sample", "position", "neuron")), x)
    for leaf in jax.tree.leaves(state):
        whole = name in ("full", "rounded") and leaf.dtype in (x.dtype, jnp.bfloat16)
        assert whole or leaf.dtype in (jnp.float32, jnp.int32, jnp.bool_), leaf


def summary_of(x, dims=("sample", "neuron")):
    return Summary().finalize(jax.jit(lambda x: Summary().chunk(x, dims))(jnp.asarray(x)))


def test_the_store_finds_its_metrics_in_order():
    assert tuple(summary_of(np.ones((2, 3), np.float32))) == METRICS


@pytest.mark.parametrize("centre", [0, 1, 1000, -1e5])
@pytest.mark.parametrize("spread", [1, 1e-2])
def test_a_small_spread_around_a_large_mean_is_kept(centre, spread):
    x = np.float32(np.random.default_rng(0).normal(centre, spread, (4096, 5)))
    found, expected = summary_of(x), np.float64(x)
    np.testing.assert_allclose(found["std"], expected.std(0), rtol=1e-5)
    near(found["mean"], expected.mean(0), 1e-7 * abs(centre) + 1e-6 * spread)


def test_a_neuron_that_fires_once_in_a_million_is_measured():
    x = np.zeros((2**20, 2), np.float32)
    x[7, 0], x[:, 1] = 1e-25, np.random.default_rng(0).random(2**20)
    found, expected = summary_of(x), np.float64(x)
    np.testing.assert_allclose(found["std"], expected.std(0), rtol=1e-5)
    np.testing.assert_allclose(found["mean"], expected.mean(0), rtol=1e-6)
    assert found["zero_fraction"][0] == np.float32((2**20 - 1) / 2**20)


def test_neighbours_of_a_neuron_that_is_not_finite_are_measured_as_without_it():
    x = np.float32(np.random.default_rng(0).normal(size=(300, 6)))
    ill = np.concatenate([x, np.full((300, 1), np.nan, np.float32)], 1)
    for name, values in summary_of(ill).items():
        np.testing.assert_allclose(values[:-1], summary_of(x)[name], rtol=1e-6, atol=1e-7)


def test_a_mask_is_made_only_where_a_value_is_not_finite():
    masked = jax.jit(lambda x: on_finite(lambda x, mask: jnp.asarray(mask is not None), x))
    assert [bool(masked(jnp.float32([1, last]))) for last in (1, np.nan, np.inf, -np.inf)] == [False, True, True, True]


def test_all_backends_count_as_the_cpu_does():
    # What runs elsewhere is run here by hand: masks although all is finite, and histograms side by side.
    x = jnp.asarray(np.random.default_rng(0).normal(size=(50, 7)), jnp.float32)
    slots = slots_of(x.reshape(-1))
    np.testing.assert_array_equal(count_slots(slots), count_slots_in_lanes(slots))


def test_only_cpus_branch_on_what_they_find():
    # On the others the host would wait for the device. One choice is always there: that of the platform, a constant.
    x = jnp.ones((4, 3))
    program = jax.jit(lambda x: Summary().chunk(x, ("sample", "neuron"))).trace(x)
    on = {name: program.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda", "tpu")}
    assert on["cuda"].count("stablehlo.case") == on["tpu"].count("stablehlo.case") < on["cpu"].count("stablehlo.case")


def test_every_edge_of_the_histogram_belongs_to_the_bin_on_its_far_side():
    edges = np.float32(bin_magnitudes())
    around = np.stack([np.nextafter(edges, np.float32(0)), edges, np.nextafter(edges, np.float32(np.inf))])
    for x in (around, -around, np.float32([TINY, -TINY, np.finfo(np.float32).max])):
        state = jax.jit(lambda x: Histogram().chunk(x, ("sample", "neuron")[: x.ndim]))(jnp.asarray(x))
        check_histogram(Histogram().finalize(state), x, ("sample", "neuron")[: x.ndim])


def test_any_float_there_is_falls_into_the_bin_that_its_value_names():
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32)
    x = bits.view(np.float32)
    check_histogram(Histogram().finalize(Histogram().chunk(jnp.asarray(x), ("sample",))), x, ("sample",))


def test_wide_floats_keep_their_range_in_the_histogram():
    with jax.enable_x64(True):
        x = jnp.asarray([1e-300, -1e300, 1e-12 * (1 + 1e-6), np.inf, np.nan, 0], jnp.float64)
        found = Histogram().finalize(Histogram().chunk(x, ("sample",)))
    assert [int(found[name]) for name in SPECIAL] == [1, 1, 1, 0]
    assert found["counts"].nonzero()[0].tolist() == [0, 73, 74]


def test_wide_floats_beyond_float32_are_infinite_in_what_is_read():
    with jax.enable_x64(True):
        found = Extremes().finalize(Extremes().chunk(jnp.asarray([[-1e300], [1.0]], jnp.float64), ("sample", "neuron")))
    assert (found["value"].tolist(), found["sample"].tolist()) == ([-np.inf], [0])


@pytest.mark.parametrize("last", [1, np.nan])
def test_the_smallest_normal_number_is_no_zero(last):
    found = summary_of(np.float32([[TINY], [-TINY], [TINY / 2], [last]]))
    assert found["zero_fraction"] == np.float32(1 / (3 + np.isfinite(last)))


def test_of_two_values_of_one_magnitude_the_positive_is_the_extreme():
    x = jnp.asarray([[[-2.0], [2.0]], [[3.0], [-3.0]]])
    assert Extremes().finalize(Extremes().chunk(x, DIMS)) == {"value": [3], "sample": [1]}
    assert Extremes().finalize(Extremes().chunk(x[:1], DIMS)) == {"value": [2], "sample": [0]}
    assert summary_of(x, DIMS)["extreme"] == [3]


def test_integers_and_truth_values_are_read_as_numbers():
    x = np.arange(-3, 9).reshape(4, 3)
    np.testing.assert_allclose(summary_of(np.int32(x))["mean"], x.mean(0))
    np.testing.assert_allclose(summary_of(x > 0)["mean"], (x > 0).mean(0))
    assert Extremes().finalize(Extremes().chunk(jnp.asarray(x), ("sample", "neuron")))["sample"].tolist() == [3, 3, 3]


def test_complex_values_count_by_magnitude():
    x = np.complex64([[3 + 4j], [0]])
    assert {name: float(v[0]) for name, v in summary_of(x).items()}["max"] == 5


def test_a_branch_that_was_not_taken_has_seen_nothing():
    # What capture brings out of such a branch: zeros in every leaf.
    x = jnp.ones((2, 3), jnp.float32)
    for name in ("summary", "extremes", "top", "gram", "active"):
        one = STATISTICS[name]
        seen = one.chunk(x, ("sample", "neuron"))
        nothing = jax.tree.map(jnp.zeros_like, seen)
        alone, joined = one.finalize(nothing), one.finalize(one.combine(nothing, seen))
        for value, expected in zip(leaves(joined), leaves(one.finalize(seen)), strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-6)
        assert all(np.isnan(v).all() or (v <= 0).all() for v in leaves(alone)), alone


DIMS = ("sample", "position", "neuron")
CUBE = np.random.default_rng(1).normal(size=(4, 5, 6)).astype(np.float32)


@pytest.mark.parametrize(
    ("dim", "at", "expected"),
    [
        ("neuron", slice(1, 4), CUBE[..., 1:4]),
        ("neuron", slice(None, None, -2), CUBE[..., ::-2]),
        ("position", -1, CUBE[:, -1]),
        ("position", [3, 0, -1], CUBE[:, [3, 0, -1]]),
        ("neuron", (), CUBE[..., []]),
    ],
)
def test_a_part_is_what_numpy_takes(dim, at, expected):
    one = Take(dim, at)
    np.testing.assert_array_equal(one.finalize(one.chunk(jnp.asarray(CUBE), DIMS)), expected)


def test_reductions_of_reductions():
    last = Take("position", -1, then=Summary())
    np.testing.assert_allclose(last.finalize(last.chunk(jnp.asarray(CUBE), DIMS))["max"], CUBE[:, -1].max(0))
    pooled = Pooled("max", then=TopK(2))
    state = pooled.combine(*(pooled.chunk(jnp.asarray(half), DIMS) for half in (CUBE[:2], CUBE[2:])))
    expected = np.argsort(-CUBE.max(1), axis=0)[:2].T
    np.testing.assert_array_equal(pooled.finalize(state)["sample"], expected)
    nested = Take("neuron", [0, 2], then=Pooled("mean", then=Gram()))
    mean = np.float64(CUBE[..., [0, 2]]).mean(1)
    found = nested.finalize(nested.chunk(jnp.asarray(CUBE), DIMS))
    np.testing.assert_allclose(found["covariance"], np.cov(mean.T, bias=True), rtol=1e-5)


def test_pooling_hides_no_nan():
    x = CUBE.copy()
    x[0, 0, 0], x[1, 0, 0] = np.nan, np.inf
    for how, plain in (("mean", np.mean), ("max", np.max)):
        one = Pooled(how)
        np.testing.assert_allclose(one.finalize(one.chunk(jnp.asarray(x), DIMS)), plain(x, axis=1), rtol=1e-5)


def test_a_projection_keeps_distances_as_well_as_it_says():
    x = np.random.default_rng(2).normal(size=(40, 1000)).astype(np.float32)
    one = Project(64)
    found = one.finalize(one.chunk(jnp.asarray(x), ("sample", "neuron")))
    np.testing.assert_allclose(found, x @ np.asarray(one.matrix(1000)), rtol=1e-4, atol=1e-3)
    ratio = ((found[::2] - found[1::2]) ** 2).sum(1) / ((x[::2] - x[1::2]) ** 2).sum(1)
    assert abs(ratio.mean() - 1) < 4 * np.sqrt(2 / 64 / 20)
    assert abs(ratio - 1).max() < 5 * np.sqrt(2 / 64)
    assert not np.array_equal(one.matrix(1000), Project(64, seed=1).matrix(1000))
    matrix = one.matrix(1000)
    with jax.default_prng_impl("rbg"):  # whatever the process draws with, runs can be compared
        np.testing.assert_array_equal(one.matrix(1000), matrix)


def test_any_dim_can_be_projected():
    one = Project(2, dim="position")
    found = one.finalize(one.chunk(jnp.asarray(CUBE), DIMS))
    np.testing.assert_allclose(found, np.einsum("spn,pk->skn", CUBE, one.matrix(5)), rtol=1e-4, atol=1e-5)


def test_a_kept_array_is_read_by_numpy_as_it_is():
    state = Full("bfloat16").chunk(jnp.asarray(CUBE), DIMS)
    assert np.asarray(state, np.float64).shape == CUBE.shape
    assert state.axis == -3


@pytest.mark.parametrize("one", [*STATISTICS.values(), *KEPT.values(), Take("neuron", [1])], ids=repr)
def test_every_reduction_is_a_value(one):
    assert isinstance(one, Reduction)
    assert hash(one) == hash(eval(repr(one)))


def test_a_gram_matrix_that_is_too_wide_is_refused_with_the_cure():
    with pytest.raises(CaptureError, match=r"2000 neurons would take 15 MiB.*limit is 64.*Project\(64.*max_width=2000"):
        jax.eval_shape(lambda x: Gram(64).chunk(x, ("sample", "neuron")), jax.ShapeDtypeStruct((2, 2000), jnp.float32))


@pytest.mark.parametrize("one", [Summary(), Histogram(), ActiveFraction(), Gram()], ids=repr)
def test_counts_that_int32_cannot_hold_are_refused(one):
    with pytest.raises(CaptureError, match=r"counts 2147483648 elements in one batch; int32 holds 2147483647"):
        jax.eval_shape(lambda x: one.chunk(x, ("sample", "neuron")), jax.ShapeDtypeStruct((2**31, 1), jnp.int8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopK(0), "TopK got k=0"),
        (lambda: BottomK(-1), "BottomK got k=-1"),
        (lambda: Full("float8"), "dtype='float8'; expected one of None, 'float32', 'bfloat16'"),
        (lambda: Pooled("maks"), "got 'maks'; expected 'mean' or 'max'"),
        (lambda: Project(0), "size=0"),
        (lambda: Take("sample", 0), "choose samples when making the batch"),
        (lambda: Take("neuron", [1, 6, -7]).chunk(jnp.asarray(CUBE), DIMS), "got 6, -7, but the dim has 6 places"),
        (lambda: Take("head", 0).chunk(jnp.asarray(CUBE), DIMS), r"needs a dim 'head', but the array has .*'position'"),
        (lambda: TopK(1).chunk(jnp.ones(3), ("neuron",)), r"TopK needs a dim 'sample'.*\('neuron',\)"),
        (lambda: Pooled().chunk(jnp.ones((2, 0, 3)), DIMS), r"shape \(2, 0, 3\): there is no position to pool"),
        (lambda: Full().combine(*[Full().chunk(jnp.ones(3), ("neuron",))] * 2), r"shape \(3,\).*no sample axis"),
        (lambda: Summary().chunk(jax.random.split(jax.random.key(0), 3), ("sample",)), r"key<fry> holds random keys"),
    ],
)
def test_what_cannot_be_is_refused_with_its_value(make, message):
    with pytest.raises(CaptureError, match=message):
        make()


def test_several_reductions_go_by_name():
    choice = {"a": Summary(), "b": Full()}
    state = reductions.combine(choice, [reductions.chunk(choice, jnp.asarray(CUBE), DIMS)] * 2)
    np.testing.assert_allclose(reductions.finalize(choice, state)["a"]["min"], CUBE.min((0, 1)))
    assert reductions.chunk(None, jnp.ones(2), ("sample",)).tolist() == [1, 1]
