from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray

import actigrad
from actigrad.metrics import METRICS
from actigrad.storage.verification import verify


def loss(params, batch):
    """A perceptron with two sites; one loss a sample."""
    hidden = actigrad.tap(jax.nn.relu(batch["x"] @ params["in"]), "hidden")
    out = actigrad.tap(hidden @ params["out"], "out")
    return jnp.square(out[:, 0] - batch["label"].astype(jnp.float32)), {"prediction": jnp.argmax(out, axis=-1)}


@partial(jax.jit, donate_argnums=0)
def update(params, batch):
    """One step of plain descent; the params before it are gone after it."""
    gradient = jax.grad(lambda params: loss(params, batch)[0].mean())(params)
    return jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient)


def make_params():
    keys = jax.random.split(jax.random.key(0))
    return {"in": jax.random.normal(keys[0], (5, 8)), "out": jax.random.normal(keys[1], (8, 3))}


def make_batch(seed, samples=16):
    random = np.random.default_rng(seed)
    return {
        "x": random.normal(size=(samples, 5)).astype(np.float32),
        "label": random.integers(0, 3, samples).astype(np.int32),
    }


def train(record, steps, params=None, *, start=1, batch=make_batch):
    """Each step's params as NumPy has them, by step."""
    params, seen = make_params() if params is None else params, {}
    for step in range(start, start + steps):
        params = update(params, batch(step))
        seen[step] = jax.tree.map(np.array, params)
        record(step, params, batch(step))
    return seen


def steps_in(path):
    return actigrad.open_store(path)["samples/step"].values.tolist()


def test_a_store_holds_what_the_probe_gives_under_the_params_of_each_step(tmp_path):
    with actigrad.Recorder(tmp_path / "run.zarr", loss, every=3, full="hidden", samples=8) as record:
        seen = train(record, 9)
    tree = xarray.open_datatree(tmp_path / "run.zarr", engine="zarr")  # nothing of ours is needed
    assert tree["samples/step"].values.tolist() == [3, 6, 9]
    probe = jax.tree.map(lambda leaf: leaf[:8], make_batch(1))
    assert tree["samples/label"].values.tolist() == probe["label"].tolist()
    for i, step in enumerate([3, 6, 9]):
        hidden = np.maximum(probe["x"] @ seen[step]["in"], 0)
        out = hidden @ seen[step]["out"]
        slope = 2 * (out[:, :1] - probe["label"][:, None]) * np.array([1.0, 0, 0])
        site = tree["sites/hidden"]
        np.testing.assert_allclose(tree["samples/loss"][i], (out[:, 0] - probe["label"]) ** 2, rtol=1e-4)
        assert tree["samples/prediction"][i].values.tolist() == out.argmax(-1).tolist()
        np.testing.assert_allclose(site["full/activation"][i], hidden, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(site["full/gradient"][i], slope @ seen[step]["out"].T, rtol=1e-4, atol=1e-5)
        rms = site["summary/activation"][i, METRICS.index("rms")]
        np.testing.assert_allclose(rms, np.sqrt((hidden**2).mean(0)), rtol=1e-5)
        special = site["summary/activation_special"][i].values
        assert special[0] == (hidden == 0).sum()
        assert site["summary/activation_histogram"][i].values.sum() + special.sum() == hidden.size
        kernel = tree["parameters/out/summary"]
        means = {name: kernel[name][i, METRICS.index("mean")].values for name in ("value", "gradient", "update")}
        np.testing.assert_allclose(means["value"], seen[step]["out"].mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(means["gradient"], (hidden.T @ slope).mean(0), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(
            means["update"], (seen[step]["out"] - seen[step - 1]["out"]).mean(0), rtol=1e-3, atol=1e-6
        )


def test_after_a_restart_it_appends_with_the_probe_of_before(tmp_path):
    path = tmp_path / "run.zarr"
    with actigrad.Recorder(path, loss, every=2) as record:
        seen = train(record, 4)
    with actigrad.Recorder(path, loss, every=2) as record:
        train(record, 5, seen[4], start=5, batch=partial(make_batch, samples=7))  # another size: the probe is the first
    assert steps_in(path) == [2, 4, 6, 8]
    tree = actigrad.open_store(path)
    assert tree.attrs["complete"]
    assert tree["samples/label"].values.tolist() == make_batch(1)["label"].tolist()
    assert verify(path).damages == ()
    assert xarray.open_datatree(path, engine="zarr", consolidated=False).equals(tree)
