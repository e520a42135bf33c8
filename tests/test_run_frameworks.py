"""A config runs a model of any framework: its factory returns what observe takes."""

import sys

import jax
import numpy as np
import pytest
import xarray

from actigrad.config.records import Config
from actigrad.frameworks import observe
from actigrad.runs.job import load
from actigrad.runs.run import run

MODELS = """
import equinox as eqx, haiku as hk, jax, jax.numpy as jnp, keras, numpy as np
from flax import linen

KEY = jax.random.key(0)

def build_linen(*, seed):
    model = linen.Sequential([linen.Dense(5), jnp.tanh, linen.Dense(3)])
    return model, model.init(KEY, jnp.zeros((1, 4)))

def build_equinox(*, seed):
    return eqx.nn.Sequential([eqx.nn.Linear(4, 5, key=KEY), eqx.nn.Lambda(jnp.tanh), eqx.nn.Linear(5, 3, key=KEY)])

def build_haiku(*, seed):
    model = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([5, 3], activation=jnp.tanh)(x)))
    return model, model.init(KEY, jnp.zeros((1, 4)))

def build_keras(*, seed):
    keras.utils.clear_session()  # Keras counts the names of layers up over the life of the process
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, "tanh"), keras.layers.Dense(3)], name="net")

def load():
    x = np.random.default_rng(0).normal(size=(11, 4)).astype(np.float32)
    return {"x": x, "label": np.arange(11, dtype=np.int32) % 3}

def loss(apply, params, batch):
    return jnp.sum(jnp.square(apply(params, batch["x"])), axis=-1)

def loss_equinox(apply, params, batch):
    return loss(jax.vmap(apply, in_axes=(None, 0)), params, batch)
"""


@pytest.fixture(scope="module", autouse=True)
def own_module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "any_model.py").write_text(MODELS)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


SITES = {
    "linen": ["layers_0", "layers_2"],
    "equinox": ["layers/0", "layers/1", "layers/2"],
    "haiku": ["mlp/~/linear_0", "mlp/~/linear_1", "mlp"],
    "keras": ["net/dense", "net/dense_1"],
}


@pytest.mark.parametrize("framework", SITES)
@jax.numpy_rank_promotion("allow")
def test_a_config_runs_a_model_of_any_framework(framework, tmp_path):
    config = Config.model_validate({
        "model": {"factory": f"any_model:build_{framework}"},
        "data": {"factory": "any_model:load", "batch_size": 4},
        "loss": "any_model:loss_equinox" if framework == "equinox" else "any_model:loss",
        "capture": [{"sites": "**", "keep": "full"}],
        "parameters": {"keep": "full"},
        "store": {"path": str(tmp_path / "run.zarr")},
    })  # fmt: skip
    job = load(config)
    run(job)
    tree = xarray.open_datatree(tmp_path / "run.zarr", engine="zarr")
    assert tree.attrs["complete"]
    assert tree.attrs["sites"] == SITES[framework]
    from any_model import load as data  # pyright: ignore[reportMissingImports]

    loss, params, batch = job.loss, job.params, data()
    gradient = jax.tree_util.tree_leaves_with_path(jax.grad(lambda params: loss(params, batch).sum())(params))
    for path, expected in gradient:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        stored = tree[f"parameters/{name}/full"]["gradient"].isel(step=-1)
        np.testing.assert_allclose(stored, expected, rtol=1e-4, atol=1e-5)
    last = tree[f"sites/{SITES[framework][-1]}/full"].isel(step=-1)
    apply, params = observe(job_model(framework))
    call = jax.vmap(apply, in_axes=(None, 0)) if framework == "equinox" else apply
    np.testing.assert_allclose(last["activation"], call(params, batch["x"]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last["gradient"], 2 * call(params, batch["x"]), rtol=1e-5, atol=1e-6)


def job_model(framework):
    import any_model  # pyright: ignore[reportMissingImports]

    return getattr(any_model, f"build_{framework}")(seed=0)
