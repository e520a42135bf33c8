"""Attributions of a run: what is stored is what the functions give, and the control is the same of shuffled weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import actigrad
from actigrad.config.records import Config
from actigrad.runs.attributions import make_attributions, shuffle
from actigrad.runs.job import Job
from actigrad.sites import Work
from actigrad.sources import open_source
from actigrad.storage.store import open_store


@pytest.fixture(scope="module")
def inputs(digits_store):
    return open_store(digits_store)["inputs/image/full"].to_dataset().isel(step=-1)


def test_the_maps_are_those_of_the_functions_and_the_controls_those_of_shuffled_weights():
    methods = ["integrated", "smoothed", "randomised"]
    config = Config.model_validate({
        "model": {"factory": "a:b"}, "data": {"factory": "a:b"}, "loss": "a:b", "store": {"path": "x.zarr"},
        "inputs": {"methods": methods}, "seed": 3,
    }, strict=False)  # fmt: skip
    loss = lambda params, batch: jnp.tanh(batch["x"] @ params["w"]) ** 2
    random = np.random.default_rng(0)
    params = {"w": random.normal(size=5).astype(np.float32)}
    batch = {"x": random.normal(size=(4, 5)).astype(np.float32)}
    source = open_source(lambda: batch, key="data.factory", samples=None, batch_size=4)
    job = Job(config, loss, loss, params, source, np.arange(4), None, (), Work(), False, True)
    maps = make_attributions(job)(params, batch, 0)
    integrated = actigrad.integrated_gradients(loss)
    np.testing.assert_allclose(maps["integrated_gradient"]["x"], integrated(params, batch)["x"], rtol=1e-5)
    np.testing.assert_allclose(maps["integrated_gradient"]["x"].sum(1), loss(params, batch), rtol=1e-2)
    other = shuffle(params, 3)
    np.testing.assert_allclose(
        maps["integrated_gradient_randomised"]["x"], integrated(other, batch)["x"], rtol=1e-5, atol=1e-7
    )
    slope = jax.grad(lambda x: loss(other, {"x": x}).sum())(batch["x"])
    np.testing.assert_allclose(maps["gradient_randomised"]["x"], slope, rtol=1e-5, atol=1e-7)
    assert set(maps) == {f"{name}{end}" for name in ("integrated_gradient", "smoothed_gradient") for end in
                         ("", "_randomised")} | {"gradient_randomised"}  # fmt: skip


def test_every_map_is_there_and_the_control_is_another(inputs):
    for name in ("gradient", "integrated_gradient", "smoothed_gradient"):
        ours, control = inputs[name].values, inputs[f"{name}_randomised"].values
        assert np.isfinite(ours).all()
        assert np.isfinite(control).all()
        assert np.abs(ours).max() > 0
        assert not np.allclose(ours, control)


def test_shuffled_weights_are_the_same_values_elsewhere_and_the_same_each_time():
    params = {"w": np.arange(60.0, dtype=np.float32).reshape(6, 10), "steps": np.arange(3)}
    once, again = shuffle(params, 0), shuffle(params, 0)
    assert (once["w"] == again["w"]).all()
    assert (once["w"] != params["w"]).any()
    assert sorted(np.ravel(once["w"]).tolist()) == list(range(60))
    assert (once["steps"] == params["steps"]).all()
    assert (shuffle(params, 1)["w"] != once["w"]).any()


def test_a_map_that_knows_only_the_input_is_exposed_by_its_control():
    """The gradient of a linear model under shuffled weights is the shuffled weights, whatever the input."""
    loss = lambda params, batch: batch["x"] @ params["w"]
    params = {"w": np.arange(5.0, dtype=np.float32)}
    batch = {"x": np.ones((2, 5), np.float32)}
    gradient = partial(actigrad.capture(loss, sites=(), gradients=False, parameters=False), batch=batch)
    shown = jax.device_get(gradient(shuffle(params, 0)).input_gradients["x"])
    np.testing.assert_array_equal(shown, np.broadcast_to(shuffle(params, 0)["w"], (2, 5)))
