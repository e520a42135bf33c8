"""Per sample: how hard each sample pulls at the parameters.

    norms = actigrad.sample_gradient_norms(loss)(params, batch)    # a pytree like params, each leaf (sample,)

The Euclidean norm of the gradient of one sample's loss, for each parameter: mislabelled and hard samples stand out
(GraNd, M. Paul et al., 2021, arXiv:2107.07075). A sample's gradient is taken by giving the loss a batch of that sample
alone, so it means something only where samples do not meet: not with batch normalisation in training mode.

Cost: a forward and a backward pass for each sample, `at_once` of them side by side, whose whole gradients are held.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def sample_gradient_norms(loss: Callable[..., Any], *, at_once: int = 8) -> Callable[..., Any]:
    """`(params, batch)` to the norms, a pytree like `params` of float32 (sample,); None at integer leaves.

    Args:
        loss: as for `actigrad.capture`.
        at_once: how many samples' gradients are held at a time.
    """

    def norms(params, batch):
        leaves, treedef = jax.tree.flatten(params)
        moving = {i: leaf for i, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)}

        def one(sample):
            alone = jax.tree.map(lambda x: x[None], sample)

            def total(moving):
                out = loss(treedef.unflatten([moving.get(i, leaf) for i, leaf in enumerate(leaves)]), alone)
                return jnp.sum(out[0] if isinstance(out, tuple) else out)

            return {i: jnp.linalg.norm(g.astype(jnp.float32).ravel()) for i, g in jax.grad(total)(moving).items()}

        found = jax.lax.map(one, jax.tree.map(jnp.asarray, batch), batch_size=at_once)
        return treedef.unflatten([found.get(i) for i in range(len(leaves))])

    return norms
