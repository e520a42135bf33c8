"""What the tests of every framework's adapter ask of it."""

import jax
import jax.numpy as jnp
import numpy as np

import actigrad

X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)


def square_loss(apply, **options):
    """The sum of squares of what the model returns."""
    return lambda params, batch: jnp.sum(jnp.square(apply(params, batch["x"], **options)))


def captured(model, x=X, **options):
    """The frame of a model, as `actigrad.observe` takes it; `options` go to the model."""
    apply, params = actigrad.observe(model)
    return actigrad.capture(square_loss(apply, **options))(params, {"x": x})


def listed(frame):
    return [(site.path, site.kind) for site in frame.sites]


def assert_equal_bits(a, b):
    """Two pytrees hold the same arrays."""
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def assert_bit_equal_to_plain(model, plain, params):
    """Loss and gradients are those of `plain(params, x)`, the framework's own call."""
    value, gradients = jax.jit(jax.value_and_grad(lambda params: jnp.sum(jnp.square(plain(params, X)))))(params)
    frame = captured(model)
    assert_equal_bits((frame.loss, frame.parameter_gradients), (value, gradients))


def assert_stacked(scanned, unrolled, names, n=4, rtol=1e-5, atol=1e-6):
    """The sites of a loop are those of its unrolled twin, stacked; names are pairs (scanned, unrolled with `{}`)."""
    for a, b in names:
        for quantity in ("activations", "gradients"):
            stacked = np.stack([getattr(unrolled, quantity)[b.format(i)] for i in range(n)])
            np.testing.assert_allclose(getattr(scanned, quantity)[a], stacked, rtol=rtol, atol=atol)


def assert_true(model, x=X, **options):
    """`actigrad.check` finds nothing wrong, and has looked."""
    apply, params = actigrad.observe(model)
    report = actigrad.check(square_loss(apply, **options), params, {"x": x})
    assert report.ok, [verdict for verdict in report.verdicts if verdict.ok is False]
    assert {verdict.question for verdict in report.verdicts if verdict.ok} >= {"outputs", "forward", "nudge"}
