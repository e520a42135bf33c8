"""The tap: an identity mark that names a value, so that it can be captured later.

    def loss(params, batch):
        hidden = actigrad.tap(jnp.tanh(batch["x"] @ params["w"]), "hidden")
        return (hidden @ params["v"]).mean()

A tap is a primitive of its own with an identity lowering: it is free when nobody looks (the compiled program is the
same with and without it), and it survives `jit`, `vmap`, `scan`, `remat`, `cond` and differentiation. Values that a
model already names with `jax.ad_checkpoint.checkpoint_name` are taps as well. Why not only those: under `vmap` a
`checkpoint_name` keeps the batch axis wherever JAX happened to put it (an Equinox `Linear` under `jax.vmap` has it
last), it takes part in `remat` policies that select by name, and it cannot carry the kind of module. This mark moves
the batch axis to the front, is invisible to every policy, and carries the kind.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

tap_p = Primitive("actigrad_tap")
tap_p.def_impl(lambda x, **_: x)
tap_p.def_abstract_eval(lambda x, **_: x)


def _jvp(primals, tangents, **params):
    # The tangent passes unmarked: a loss that differentiates inside itself would otherwise hold each site twice.
    return tap_p.bind(primals[0], **params), tangents[0]


def _batch(args, dims, **params):
    return tap_p.bind(jnp.moveaxis(args[0], dims[0], 0), **params), 0


ad.primitive_jvps[tap_p] = _jvp
batching.primitive_batchers[tap_p] = _batch
mlir.register_lowering(tap_p, lambda ctx, x, **_: [x])


def tap(x: Any, name: str, *, kind: str = "") -> Any:
    """Return `x` unchanged, named `name` for capture.

    Args:
        x: an array, or a pytree of arrays. One leaf is named `name`; several are `name.0`, `name.key`, …; what only
            converts to an array (`__jax_array__`) comes back as one.
        name: the site's path, `/` between its segments.
        kind: the class name of the module that `x` comes out of.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(x)
    arrays = [i for i, (_, leaf) in enumerate(leaves) if isinstance(leaf, jax.Array) or hasattr(leaf, "__jax_array__")]
    marked = [leaf for _, leaf in leaves]
    for i in arrays:
        suffix = "" if len(arrays) == 1 else "." + jax.tree_util.keystr(leaves[i][0], simple=True, separator=".")
        array = marked[i] if isinstance(marked[i], jax.Array) else marked[i].__jax_array__()
        marked[i] = tap_p.bind(array, name=name + suffix, kind=kind)
    return jax.tree_util.tree_unflatten(treedef, marked)
