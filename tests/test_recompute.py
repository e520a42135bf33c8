"""Recompute: the same numbers with fewer values kept, cut where a hand would have put `jax.checkpoint`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import actigrad
from actigrad.engine.jaxprs import REMAT
from actigrad.errors import NoSuchSite

PARAMS = [jax.random.normal(jax.random.key(i), (16, 16)) / 4 for i in range(4)]
X = jax.random.normal(jax.random.key(9), (512, 16))


def block(x, w):
    for _ in range(4):
        x = jnp.tanh(x @ w)
    return x


def unrolled(params, batch):
    x = batch
    for i, w in enumerate(params):
        x = actigrad.tap(x + block(x, w), f"blocks/{i}")
    return jnp.sum(x), {"first": x[0]}


def scanned(params, batch):
    def body(x, w):
        x = jax.jit(lambda x: actigrad.tap(x + block(x, w), "block"))(x)
        return x, x.mean()

    x, means = jax.lax.scan(body, batch, jnp.stack(params), reverse=True)
    return jnp.sum(x) + jnp.sum(means)


def by_hand(params, batch):
    x = batch
    for w in params:
        x = jax.checkpoint(lambda x, w: x + block(x, w))(x, w)
    return jnp.sum(x)


def scanned_by_hand(params, batch):
    body = jax.checkpoint(lambda x, w: x + block(x, w), prevent_cse=False)
    step = lambda x, w: ((y := body(x, w)), y.mean())
    x, means = jax.lax.scan(step, batch, jnp.stack(params), reverse=True)
    return jnp.sum(x) + jnp.sum(means)


def temporary(loss):
    step = lambda params, batch: jax.grad(lambda p: _scalar(loss(p, batch)))(params)
    return jax.jit(step).lower(PARAMS, X).compile().memory_analysis().temp_size_in_bytes


def _scalar(out):
    return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize("loss", [unrolled, scanned])
def test_everything_that_is_captured_is_the_same(loss):
    a = actigrad.capture(loss)(PARAMS, X)
    b = actigrad.capture(actigrad.recompute_between(loss, "**"))(PARAMS, X)
    assert [site.path for site in a.sites] == [site.path for site in b.sites]
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_it_needs_the_memory_that_checkpoints_by_hand_need():
    assert temporary(actigrad.recompute_between(unrolled, "blocks/*")) == temporary(by_hand)
    leaner, hand = temporary(actigrad.recompute_between(scanned, "**")), temporary(scanned_by_hand)
    assert abs(leaner - hand) <= X.nbytes  # within one value of the stream
    assert leaner < temporary(scanned) / 2


def test_further_arguments_reach_the_loss():
    loss = lambda params, batch, shift, *, square: jnp.sum(actigrad.tap(batch - shift, "h") ** (2 if square else 1))
    leaner = actigrad.recompute_between(loss, "h")
    np.testing.assert_allclose(leaner({}, X, X - 3, square=True), 9 * X.size, rtol=1e-4)


def test_fewer_sites_make_longer_pieces():
    def pieces(sites):
        program = jax.make_jaxpr(actigrad.recompute_between(unrolled, sites))(PARAMS, X)
        return sum(eqn.primitive.name in REMAT for eqn in program.eqns)

    assert pieces("blocks/*") == 4 + 1  # what follows the last site is a piece as well
    assert pieces("blocks/1") == 2


def test_a_site_that_is_not_there_is_an_error():
    with pytest.raises(NoSuchSite, match="blocks/9"):
        actigrad.recompute_between(unrolled, "blocks/9")(PARAMS, X)
