"""The tap by itself: an identity under every transformation."""

import jax
import jax.numpy as jnp
import numpy as np

import actigrad
from actigrad.engine.taps import tap, tap_p

X = jnp.arange(6.0).reshape(3, 2)


def marks(f, *args):
    return [
        (eqn.params["name"], eqn.outvars[0].aval.shape)
        for eqn in jax.make_jaxpr(f)(*args).jaxpr.eqns
        if eqn.primitive is tap_p
    ]


def test_it_returns_its_argument():
    assert tap(X, "x") is X
    np.testing.assert_array_equal(jax.jit(lambda x: tap(x, "x"))(X), X)


def test_a_pytree_has_one_name_a_leaf_and_other_leaves_pass():
    tree = {"a": X, "b": (X + 1, None, "text")}
    assert marks(lambda t: jax.tree.leaves(tap({**tree, "a": t}, "m"))[:2], X) == [("m.a", (3, 2)), ("m.b.0", (3, 2))]
    assert marks(lambda t: tap({"only": t, "flag": "text"}, "m")["only"], X) == [("m", (3, 2))]
    assert tap(tree, "m")["b"][2] == "text"


def test_what_converts_to_an_array_is_marked_as_one():
    class Lazy:
        def __jax_array__(self):
            return X * 2

    assert marks(lambda x: tap(Lazy(), "lazy"), X) == [("lazy", (3, 2))]
    np.testing.assert_array_equal(tap([Lazy()], "lazy")[0], X * 2)


def test_the_kind_travels_with_the_mark():
    (eqn,) = jax.make_jaxpr(jax.vmap(lambda x: tap(x, "x", kind="Dense")))(X).eqns
    assert eqn.params == {"name": "x", "kind": "Dense"}


def test_under_vmap_the_batch_axis_comes_first_wherever_jax_put_it():
    weight = jnp.ones((5, 2))
    linear = lambda x: tap(weight @ x, "linear")  # under vmap this is (5, sample) inside JAX
    assert marks(jax.vmap(linear), X) == [("linear", (3, 5))]
    frame = actigrad.capture(lambda params, batch: jnp.sum(jax.vmap(linear)(batch["x"])))({}, {"x": X})
    np.testing.assert_allclose(frame.activations["linear"], X @ weight.T)


def test_a_loss_that_differentiates_inside_itself_holds_each_site_once():
    def energy(x):
        return jnp.sum(tap(jnp.tanh(x), "h") ** 2)

    assert marks(lambda x: jnp.sum(jax.grad(energy)(x)), X) == [("h", (3, 2))]


def test_forward_and_reverse_derivatives_pass_unchanged():
    f = lambda x: jnp.sin(tap(jnp.cos(x), "c"))
    g = lambda x: jnp.sin(jnp.cos(x))
    np.testing.assert_array_equal(jax.jvp(f, (X,), (X,))[1], jax.jvp(g, (X,), (X,))[1])
    np.testing.assert_array_equal(jax.jacrev(f)(X), jax.jacrev(g)(X))
    np.testing.assert_allclose(jax.hessian(lambda x: f(x).sum())(X), jax.hessian(lambda x: g(x).sum())(X), rtol=1e-6)
