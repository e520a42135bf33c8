"""Totals: what is merged on the device is what the reductions merge on the host."""

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import actigrad
from actigrad.metrics import METRICS, SPECIAL
from actigrad.reduce import Histogram, Summary
from actigrad.runs.totals import Layout, add, from_bytes, to_bytes
from actigrad.storage.schema import Plan
from actigrad.storage.template import ArraySpec, Template

SITES = {"a": 3, "b/wide": 5, "c": 1}


def loss(params, batch):
    x = batch @ params["w"]
    return sum(actigrad.tap(x[:, :n] * n, path).sum(axis=1) for path, n in SITES.items())


REDUCTIONS = {"summary": Summary(), "histogram": Histogram()}


@pytest.fixture(scope="module")
def frames():
    """Three batches; one value of the second is NaN, and the last is ragged."""
    x = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    x[5, 2] = np.nan
    params = {"w": jnp.asarray(np.random.default_rng(1).normal(size=(4, 5)), jnp.float32)}
    captured = actigrad.capture(loss, inputs=False, reduce=REDUCTIONS)
    return [captured(params, x[start : start + 4]) for start in (0, 4, 8)]


@pytest.fixture(scope="module")
def layout(frames):
    plans = [Plan(site, ("activation", "gradient"), {}) for site in frames[0].sites]
    specs = {}
    for path, n in SITES.items():
        for quantity in ("activation", "gradient"):
            for suffix, shape in (
                ("", (1, len(METRICS), n)),
                ("_histogram", (1, 147)),
                ("_special", (1, len(SPECIAL))),
            ):
                name = f"sites/{path}/summary/{quantity}{suffix}"
                specs[name] = ArraySpec(name, ("step",) * len(shape), shape, shape)
    return Layout(plans, Template({}, specs, {}))


def totals_of(layout, frames) -> dict:
    totals = None
    for frame in frames:
        totals = add(totals, jax.jit(layout.pack)(frame))
    assert totals is not None
    return totals


def test_every_site_has_what_the_reductions_make_of_the_same_batches_on_the_host(layout, frames):
    found = dict(layout.arrays(totals_of(layout, frames)))
    for path in SITES:
        for quantity in ("activation", "gradient"):
            states = [getattr(frame, f"{quantity}s")[path] for frame in frames]
            merged = {n: reduce(r.combine, [state[n] for state in states]) for n, r in REDUCTIONS.items()}
            summary, counts = Summary().finalize(merged["summary"]), Histogram().finalize(merged["histogram"])
            group = f"sites/{path}/summary/{quantity}"
            np.testing.assert_allclose(found[group], np.stack([summary[m] for m in METRICS]), rtol=1e-6, err_msg=group)
            np.testing.assert_array_equal(found[f"{group}_histogram"], counts["counts"])
            np.testing.assert_array_equal(found[f"{group}_special"], [counts[name] for name in SPECIAL])
    assert found["sites/a/summary/activation"][METRICS.index("nonfinite")].tolist() == [1, 1, 1]


def test_gradients_are_summed_in_float32_at_least(layout, frames):
    half = [jax.tree.map(lambda g: g.astype(jnp.bfloat16), frame.parameter_gradients) for frame in frames]
    packed = [layout.pack(frame) | {"gradients": g} for frame, g in zip(frames, half, strict=True)]
    summed = add(add(add(None, packed[0]), packed[1]), packed[2])["gradients"]["w"]
    assert summed.dtype == jnp.float32
    np.testing.assert_array_equal(summed, sum(np.asarray(g["w"], np.float32) for g in half))


def test_saved_in_between_they_go_on_to_the_same_bits(layout, frames):
    whole = totals_of(layout, frames)
    first = totals_of(layout, frames[:2])
    last = layout.pack(frames[2])
    again = add(from_bytes(to_bytes(first), last), last)
    assert jax.tree.structure(again) == jax.tree.structure(whole)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(whole), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_the_share_of_zeros_is_that_of_the_finite_values(layout, frames):
    shares = dict(layout.zero_shares(totals_of(layout, frames)))
    assert set(shares) == {(path, quantity) for path in SITES for quantity in ("activation", "gradient")}
    assert shares["a", "activation"] == 0


def test_without_sites_only_gradients_are_summed(frames):
    layout = Layout([], Template({}, {}, {}))
    totals = totals_of(layout, frames)
    assert list(layout.arrays(totals)) == []
    assert (totals["summary"], totals["histogram"]) == ({}, {})
