"""Twins: the same program twice, once with JAX's control flow and taps, once unrolled with probes made by hand.

A program is a function `program(backend, x)`, (sample, neuron) to (sample, neuron), written against a small backend.
`Native` runs it as a user would; `Unrolled` runs Python loops, adds an explicit probe at each mark and records what
passed. They share no code with the package, so their agreement means something.
"""

import jax
import jax.numpy as jnp
from jax import lax

import actigrad


class Native:
    """JAX's control flow, and actigrad's taps."""

    def mark(self, name, x):
        return actigrad.tap(x, name)

    def scan(self, body, x, n, *, reverse=False, unroll=1):
        """`body(backend, x, i)` n times; `i` counts down in a reversed scan."""
        step = lambda x, i: (body(self, x, i), None)
        return lax.scan(step, x, jnp.arange(n, dtype=jnp.float32), reverse=reverse, unroll=unroll)[0]

    def cond(self, threshold, a, b, x):
        return lax.cond(jnp.sum(x) > threshold, lambda x: a(self, x), lambda x: b(self, x), x)

    def hidden_while(self, body, x, n):
        """A loop with a traced bound, beside the differentiated path."""
        start = (jnp.zeros((), jnp.int32), lax.stop_gradient(x))
        bound = jnp.asarray(n, jnp.int32) + (jnp.sum(x) > 1e30).astype(jnp.int32)
        return x + lax.while_loop(lambda s: s[0] < bound, lambda s: (s[0] + 1, body(self, s[1])), start)[1]

    def remat(self, body, x):
        return jax.checkpoint(lambda x: body(self, x))(x)

    def jit(self, body, x):
        return jax.jit(lambda x: body(self, x))(x)

    def vmap(self, body, x):
        return jax.vmap(lambda x: body(self, x))(x)

    def rule(self, body, x, kind):
        """A custom derivative: twice the identity's."""
        return custom(lambda x: body(self, x), kind)(x)


class Unrolled:
    """Python's control flow; probes are added by hand, values are kept by (name, loop indices)."""

    def __init__(self, probes=None):
        self.probes, self.seen, self.at, self.mask = probes or {}, {}, (), None

    def mark(self, name, x):
        key = (name, *self.at)
        self.seen[key] = x if self.mask is None else jnp.where(self.mask, x, 0)
        return x + self.probes[key] if key in self.probes else x

    def scan(self, body, x, n, *, reverse=False, unroll=1):
        for i in reversed(range(n)) if reverse else range(n):
            self.at = (*self.at, i)
            x = body(self, x, jnp.float32(i))
            self.at = self.at[:-1]
        return x

    def cond(self, threshold, a, b, x):
        outer, taken, outs = self.mask, jnp.sum(x) > threshold, []
        for branch, here in ((a, taken), (b, ~taken)):
            self.mask = here if outer is None else here & outer
            outs.append(branch(self, x))
        self.mask = outer
        return jnp.where(taken, *outs)

    def hidden_while(self, body, x, n):
        probes, self.probes, y = self.probes, {}, lax.stop_gradient(x)
        for _ in range(n):
            y = body(self, y)
        self.probes = probes
        return x + lax.stop_gradient(y)

    def remat(self, body, x):
        return body(self, x)

    jit = vmap = remat

    def rule(self, body, x, kind):
        probes, self.probes = self.probes, {}
        body(self, lax.stop_gradient(x))
        self.probes = probes
        return custom(lambda x: body(Unmarked(), x), kind)(x)


class Unmarked(Unrolled):
    """No marks at all."""

    def mark(self, name, x):
        return x


def custom(f, kind):
    """`f` with a derivative of its own."""
    if kind == "jvp":
        g = jax.custom_jvp(f)
        g.defjvp(lambda primals, tangents: (f(*primals), 2 * tangents[0]))
        return g
    g = jax.custom_vjp(f)
    g.defvjp(lambda x: (f(x), None), lambda _, cotangent: (2 * cotangent,))
    return g


def reference(program, x):
    """Loss, activations, gradients and the input's gradient of the unrolled twin; loop axes in front."""
    dry = Unrolled()
    jax.eval_shape(lambda x: program(dry, x), x)
    probes = {key: jnp.zeros(value.shape, value.dtype) for key, value in dry.seen.items()}

    def loss(x, probes):
        twin = Unrolled(probes)
        return objective(program(twin, x)), twin.seen

    (value, seen), (slope, gradients) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(x, probes)
    return value, stacked(seen), stacked(gradients), slope


def objective(y):
    return jnp.mean(jnp.square(y) + jnp.sin(y))


def stacked(by_key):
    """(name, i, j) -> array as name -> array with axes i, j in front."""
    out = {}
    for name in dict.fromkeys(key[0] for key in by_key):
        out[name] = _stack({key[1:]: value for key, value in by_key.items() if key[0] == name})
    return out


def _stack(by_index):
    if list(by_index) == [()]:
        return by_index[()]
    first = sorted({index[0] for index in by_index})
    return jnp.stack([_stack({k[1:]: v for k, v in by_index.items() if k[0] == i}) for i in first])


def captured(program, x, **options):
    """The frame of the program as a user would run it."""
    loss = lambda _, batch: objective(program(Native(), batch["x"]))
    return actigrad.capture(loss, **options)({}, {"x": x})
