"""What the tests of models that others wrote have in common: how to get them, and what to ask of their capture."""

import importlib.machinery
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import actigrad


def bare(*names):
    """Packages whose modules can be imported without what their `__init__` imports: trainers, loggers, tokenizers."""
    for name in names:
        if name not in sys.modules:
            top, *rest = name.split(".")
            root = Path(importlib.machinery.PathFinder.find_spec(top).origin).parent
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [str(Path(root, *rest))]


def randomised(tree, seed=0):
    """Weights drawn anew, biases and scales moved: some models begin with zeros, behind which gradients are zero."""
    generator = np.random.default_rng(seed)

    def draw(leaf):
        if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)):
            return leaf
        noise = generator.normal(size=leaf.shape)
        drawn = noise / np.sqrt(leaf.shape[-2]) if leaf.ndim > 1 else np.asarray(leaf, np.float64) + 0.2 * noise
        return jnp.asarray(drawn, leaf.dtype)

    return jax.tree.map(draw, tree)


def tokens(vocabulary, shape=(2, 6), seed=1):
    return jnp.asarray(np.random.default_rng(seed).integers(1, vocabulary, shape), jnp.int32)


def images(shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def uneven(x, seed=2):
    """A loss in which no two elements weigh the same: a site in another's place has another gradient."""
    weights = np.random.default_rng(seed).normal(size=x.shape)
    return jnp.sum(x.astype(jnp.float32) * jnp.asarray(weights, jnp.float32)) + 0.1 * jnp.sum(jnp.square(x))


def assert_same(found, expected, rtol=1e-4):
    """Two dicts of arrays, with the same names, differ by no more than `rtol` of the largest element of each."""
    assert set(found) == set(expected), (sorted(set(found) - set(expected)), sorted(set(expected) - set(found)))
    apart = {}
    for path, array in expected.items():
        assert found[path].shape == array.shape, path
        a, b = np.asarray(found[path], np.float64), np.asarray(array, np.float64)
        apart[path] = np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-30)
    assert not (wrong := {path: value for path, value in apart.items() if not value <= rtol}), wrong


def assert_whole(frame):
    """Every site is here with its activation and its gradient, and not all zero, or stands in `missing`."""
    for site in frame.sites:
        for quantity, held in (("activation", frame.activations), ("gradient", frame.gradients)):
            assert (site.path in held) != ((site.path, quantity) in frame.missing), (site.path, quantity)
            if site.path in held:
                array = np.asarray(held[site.path], np.float64)
                assert np.isfinite(array).all(), (site.path, quantity)
                assert array.any() or site.path in frame.unreached, (site.path, quantity)


def assert_true(loss, params, batch, sites="**"):
    """`actigrad.check` finds nothing wrong, and its forward mode has answered at each of the sites."""
    report = actigrad.check(loss, params, batch, sites=sites)
    # An attention's key bias has a gradient of zero but for round-off, and check compares each array to its own size.
    wrong = [verdict for verdict in report.verdicts if verdict.ok is False and verdict.where != "parameter gradients"]
    assert not wrong, wrong
    frame = actigrad.capture(loss, sites=sites)(params, batch)
    answered = {verdict.where for verdict in report.verdicts if verdict.question == "forward" and verdict.ok}
    assert {site.path for site in frame.sites} == answered | set(report.missing)
    assert_same_parameter_gradients(frame, loss, params, batch)


def assert_same_parameter_gradients(frame, loss, params, batch, rtol=1e-4):
    """Those of the plain call, within `rtol` of the largest of all."""
    is_floating = lambda x: jnp.issubdtype(jnp.result_type(x), jnp.floating)
    floating = jax.tree.map(lambda x: x if is_floating(x) else None, params)

    def plain(floating):
        fill = lambda new, old: old if new is None else new
        return loss(jax.tree.map(fill, floating, params, is_leaf=lambda x: x is None), batch)

    expected = jax.tree.leaves(jax.jit(jax.grad(plain))(floating))
    found = [x for x in jax.tree.leaves(frame.parameter_gradients) if is_floating(x)]
    largest = max(float(jnp.abs(x).max()) for x in expected)
    assert max(float(jnp.abs(a - b).max()) for a, b in zip(found, expected, strict=True)) <= rtol * largest


def some(frame, n=5):
    """About `n` of the sites, from the first to the last: a check of each costs two compilations."""
    paths = [site.path for site in frame.sites]
    return sorted({paths[round(i)] for i in np.linspace(0, len(paths) - 1, n)})
