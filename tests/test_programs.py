"""Random programs: control flow nested at random, taps at random places, against the unrolled twin; 500 of them."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twins import captured, reference

WEIGHTS = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3, 3)) * 0.7, jnp.float32)
X = jnp.asarray(np.random.default_rng(2).normal(size=(4, 3)), jnp.float32)
WRAPPERS = ("jit", "remat", "scan", "reverse", "cond", "while", "jvp", "vjp", "vmap", "residual")

leaves = st.sampled_from([("dense", 0), ("dense", 1), ("dense", 2), ("sin",), ("scale",), ("tap",), ("tap",)])
nested = lambda inner: st.tuples(st.sampled_from(WRAPPERS), st.integers(1, 3), inner, inner)
programs = st.recursive(
    st.lists(leaves, min_size=1, max_size=3),
    lambda inner: st.lists(st.one_of(leaves, nested(inner)), min_size=1, max_size=3),
    max_leaves=12,
)


def run(backend, program, x, names, in_vmap=False):
    """Interpret a program; every mark's name tells its place in the text, so a loop's iterations share one."""
    for place, op in enumerate(program):
        here = f"{names}{place}"
        match op:
            case ("dense", k):
                x = jnp.tanh(x @ WEIGHTS[k])
            case ("sin",):
                x = jnp.sin(x) + x / 2
            case ("scale",):
                x = x * 0.7
            case ("tap",):
                x = backend.mark(here, x)
            case (wrapper, n, a, b):
                x = wrapped(backend, wrapper, n, a, b, x, here, in_vmap)
    return x


def wrapped(backend, wrapper, n, a, b, x, here, in_vmap):
    inner = lambda b_, x, i=0: run(b_, a, x, f"{here}.", in_vmap)
    match wrapper:
        case "jit" | "remat":
            return getattr(backend, wrapper)(inner, x)
        case "scan" | "reverse":
            return backend.scan(inner, x, n, reverse=wrapper == "reverse")
        case "cond" if not in_vmap:  # a batched branch becomes a select: both sides run
            other = lambda b_, x: run(b_, b, x, f"{here}:", in_vmap)
            return backend.cond(float(n - 2), inner, other, x)
        case "while" if not in_vmap:
            return backend.hidden_while(inner, x, n)
        case "jvp" | "vjp":
            return backend.rule(inner, x, wrapper)
        case "vmap" if not in_vmap:
            batched = lambda b_, x: run(b_, a, x, f"{here}.", True)
            return backend.vmap(batched, x)
    return x + inner(backend, x)


@pytest.mark.parametrize("outermost", WRAPPERS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_random_program_is_captured_as_its_unrolled_twin(outermost, data):
    before, a, b, after = (data.draw(programs) for _ in range(4))
    program = [*before, (outermost, data.draw(st.integers(1, 3)), [*a, ("tap",)], [*b, ("tap",)]), *after]
    entry = lambda b, x: run(b, program, x, "at")
    value, activations, gradients, slope = reference(entry, X)
    frame = captured(entry, X)
    hidden = {path for path, _ in frame.missing}
    assert set(frame.activations) == set(activations)
    assert set(frame.gradients) == set(activations) - hidden
    close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(frame.loss, value, **close)
    np.testing.assert_allclose(frame.input_gradients["x"], slope, **close)
    for path in frame.activations:
        np.testing.assert_allclose(frame.activations[path], activations[path], err_msg=path, **close)
    for path in frame.gradients:
        np.testing.assert_allclose(frame.gradients[path], gradients[path], err_msg=path, **close)
