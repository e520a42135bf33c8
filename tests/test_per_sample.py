"""Per-sample gradient norms: one sample at a time, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import actigrad

RNG = np.random.default_rng(0)
PARAMS = {
    "w": jnp.asarray(RNG.normal(size=(2, 2, 3)), jnp.float32),
    "b": jnp.zeros(3, jnp.bfloat16),
    "step": jnp.arange(2),
}
BATCH = {"x": RNG.normal(size=(7, 4)).astype(np.float32), "label": np.arange(7, dtype=np.int32) % 3}


def losses(params, batch):
    logits = actigrad.tap(batch["x"] @ params["w"].reshape(4, 3) + params["b"][None].astype(jnp.float32), "logits")
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], axis=1)[:, 0], {"logits": logits}


@pytest.mark.parametrize("at_once", [1, 3, 7, 50])
def test_they_are_the_norms_of_the_gradients_of_each_sample_alone(at_once):
    found = jax.jit(actigrad.sample_gradient_norms(losses, at_once=at_once))(PARAMS, BATCH)
    assert found["step"] is None
    for i in range(7):
        one = lambda w, b, i=i: losses({"w": w, "b": b}, {k: v[i : i + 1] for k, v in BATCH.items()})[0][0]
        by_hand = jax.grad(one, argnums=(0, 1))(PARAMS["w"], PARAMS["b"])
        np.testing.assert_allclose(found["w"][i], np.linalg.norm(by_hand[0]), rtol=1e-5)
        np.testing.assert_allclose(found["b"][i], np.linalg.norm(by_hand[1].astype(np.float32)), rtol=1e-2)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(found)} == {"float32"}


def test_they_are_those_of_the_rows_of_the_jacobian_of_the_whole_batch():
    rows = jax.jacrev(lambda w: losses(PARAMS | {"w": w}, BATCH)[0])(PARAMS["w"])
    found = actigrad.sample_gradient_norms(losses)(PARAMS, BATCH)
    np.testing.assert_allclose(found["w"], np.linalg.norm(rows.reshape(7, -1), axis=1), rtol=1e-5)


def test_so_many_are_side_by_side_as_are_asked_for():
    program = str(jax.make_jaxpr(actigrad.sample_gradient_norms(losses, at_once=3))(PARAMS, BATCH))
    assert "f32[3,2,2,3]" in program
    assert "f32[7,2,2,3]" not in program
