"""Attribution: how much each value at a site, or in the input, has to do with the loss.

    actigrad.gradient_times_activation(actigrad.capture(loss)(params, batch))["blocks/3"]
    actigrad.integrated_gradients(loss, "blocks/3")(params, batch)
    actigrad.integrated_gradients(loss)(params, batch)                     # of the inputs
    actigrad.smooth_gradients(loss, noise=0.1)(params, batch, key).gradients["blocks/3"]
    actigrad.patch(loss, "blocks/3")(value, params, batch)                 # the loss with another value there

To attribute a logit or a class score, pass a function that returns that one in place of the loss. All of them trace
like `capture`, and compose with `jax.jit`, `jax.vmap` and shardings.

Sources: gradient × input, A. Shrikumar et al., 2016 (arXiv:1605.01713); integrated gradients, M. Sundararajan et al.,
2017 (arXiv:1703.01365), at an inner site as K. Dhamdhere et al., 2018 (arXiv:1805.12233); SmoothGrad, D. Smilkov et
al., 2017 (arXiv:1706.03825).
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from actigrad.engine.program import Program, split_arguments, sum_losses, trace_program
from actigrad.engine.rewrite import Rewriter
from actigrad.engine.transform import Frame, Patterns, capture
from actigrad.errors import CaptureError
from actigrad.sites import choose, exactly


def gradient_times_activation(frame: Frame) -> dict[str, jax.Array]:
    """The first-order effect of setting each value to zero, with the sign turned: gradient × activation, by site.

    Args:
        frame: of a capture without `reduce`.
    """
    return {path: gradient * frame.activations[path] for path, gradient in frame.gradients.items()}


def patch(loss: Callable[..., Any], site: str) -> Callable[..., Any]:
    """The loss as a function of the value at one site: `(value, params, batch, ...)` to what the loss returns.

    What the site would have held is computed and dropped; what depends on it sees `value`. In a loop, `value` has the
    `layer` axis in front and every iteration gets its own. (Activation patching; with zeros: ablation.) Cost: that of
    the loss.

    Args:
        loss: as for `actigrad.capture`.
        site: its path.

    Raises:
        NoSuchSite: when there is no such site.
        CaptureError: when the value does not have the site's shape, or the site is inside a branch, a `while_loop` or
            a custom rule, where no other value can be put.
    """

    @functools.wraps(loss)
    def patched(value, params, batch, *args, **kwargs):
        static, arrays = split_arguments((params, batch, args, kwargs))
        program = trace_program(loss, static, arrays)
        tap = _open_tap(program, site)
        value = jnp.asarray(value)
        if value.shape != tap.shape:
            raise CaptureError(f"the value for site {site!r} has shape {value.shape}; expected {tap.shape}.")
        rewriter = Rewriter({tap.address: tap}, lambda _, x, other: (other.astype(x.dtype), None))
        flat, _ = rewriter.run(program.closed, arrays, {tap.address: value})
        return jax.tree.unflatten(program.out_tree, flat)

    return patched


def integrated_gradients(loss: Callable[..., Any], site: str | None = None, *, steps: int = 32) -> Callable[..., Any]:
    """`(params, batch, baseline=None)` to the attribution of the inputs, or of the values at one site.

    The gradient is averaged along the straight line from the baseline to the actual value (midpoint rule) and
    multiplied by their difference. So the sum over all values is the loss there less the loss at the baseline, up to
    the error of the rule; at an inner site, with everything that goes around the site held at its actual value.

    Args:
        loss: as for `actigrad.capture`; losses of samples are summed.
        site: the path of a site, or None for the inputs.
        steps: gradients along the line, one after another; time grows with them, memory does not.

    Returns:
        A function; its `baseline` is a pytree like the batch, or an array like the site, zeros by default. It returns
        an array like the site, or a pytree like the batch with None at leaves without a gradient.
    """
    if steps < 1:
        raise CaptureError(f"integrated_gradients got steps={steps}; expected at least 1.")

    def attribute(params, batch, baseline=None):
        target, slope = _inputs(loss, params, batch) if site is None else _at_site(loss, site, params, batch)
        start = jax.tree.map(jnp.zeros_like, target) if baseline is None else baseline
        apart = jax.tree.map(lambda a, b: b - jnp.asarray(a, b.dtype) if _moves(b) else b, start, target)
        back = lambda share, b, d: b - share.astype(b.dtype) * d if _moves(b) else b
        mean = _mean_over(
            lambda share: slope(jax.tree.map(functools.partial(back, share), target, apart)),
            (jnp.arange(steps, dtype=jnp.float32) + 0.5) / steps,
        )
        return jax.tree.map(lambda g, d: None if g is None else g * d, mean, apart, is_leaf=lambda g: g is None)

    return attribute


def smooth_gradients(
    loss: Callable[..., Any], *, sites: Patterns = "**", noise: float = 0.15, samples: int = 16
) -> Callable[..., Frame]:
    """`(params, batch, key)` to a `Frame` of gradients averaged over noisy copies of the batch (SmoothGrad).

    The frame holds the loss and the gradients, of sites and inputs; it has no activations, `aux` or `visited`. Cost:
    the time of one capture a copy, the memory of two frames.

    Args:
        loss: as for `actigrad.capture`.
        sites: patterns of the sites to capture.
        noise: the standard deviation of the Gaussian noise as a share of each input's range, largest less smallest.
        samples: how many copies, one after another.
    """

    def average(params, batch, key) -> Frame:
        captured = capture(loss, sites=sites, parameters=False)

        def one(key):
            leaves, treedef = jax.tree.flatten(batch)
            keys = jax.random.split(key, max(1, len(leaves)))
            noisy = [_with_noise(x, noise, k) if _moves(x) else x for x, k in zip(leaves, keys, strict=True)]
            frame = captured(params, jax.tree.unflatten(treedef, noisy))
            return replace(frame, aux=None, visited={}, activations={})

        return _mean_over(one, jax.random.split(key, samples))

    return average


def _open_tap(program: Program, site: str):
    (found,) = choose(program.sites, exactly([site]))
    tap = program.taps[found.path]
    if tap.refused or tap.visitable or tap.no_gradient:
        reason = tap.refused or tap.no_gradient or "it is inside a branch or a while_loop"
        raise CaptureError(f"no other value can be put at site {site!r}: {reason}.")
    return tap


def _inputs(loss: Callable[..., Any], params: Any, batch: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The inputs, and the gradient of the loss as a function of them."""
    captured = capture(loss, sites=(), gradients=False, parameters=False)
    return jax.tree.map(jnp.asarray, batch), lambda inputs: captured(params, inputs).input_gradients


def _at_site(loss: Callable[..., Any], site: str, params: Any, batch: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The values at a site, and the gradient of the loss as a function of them."""
    look = capture(loss, sites=exactly([site]), gradients=False, parameters=False, inputs=False)
    patched = patch(loss, site)
    return look(params, batch).activations[site], jax.grad(lambda value: _total(patched(value, params, batch)))


def _total(out: Any) -> jax.Array:
    return sum_losses(out[0] if isinstance(out, tuple) else out)


def _mean_over(function: Callable[[Any], Any], xs: jax.Array) -> Any:
    """The mean of a pytree-valued function, one x after another, in float32 or wider."""
    wide = lambda leaf: jnp.float64 if leaf.dtype == jnp.float64 else jnp.float32
    shapes = jax.eval_shape(function, xs[0])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, wide(leaf)), shapes)
    add = lambda total, x: (jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, function(x)), None)
    total, _ = jax.lax.scan(add, zeros, xs)
    return jax.tree.map(lambda leaf, like: (leaf / len(xs)).astype(like.dtype), total, shapes)


def _with_noise(x: Any, noise: float, key: jax.Array) -> jax.Array:
    x = jnp.asarray(x)
    spread = (noise * (jnp.max(x) - jnp.min(x))).astype(x.dtype)
    return x + spread * jax.random.normal(key, x.shape, x.dtype)


def _moves(x: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(x), jnp.floating))
