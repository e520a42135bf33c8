"""Flax NNX: what is captured of models of others is what `nnx.capture` gives, and probes by hand say the same."""

# pyright: reportMissingImports=false
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.foreign import assert_same, assert_true, assert_whole, bare, randomised, some, tokens, uneven

import actigrad


def llama(remat):
    from tunix.models.llama3 import model

    config = model.ModelConfig(
        num_layers=2, vocab_size=30, embed_dim=16, hidden_dim=32, num_heads=4, head_dim=4, num_kv_heads=2,
        rope_theta=10_000, norm_eps=1e-5, remat_config=model.RematConfig[remat],
    )  # fmt: skip
    return model.Llama3(config, rngs=nnx.Rngs(0))

@pytest.mark.parametrize("remat", ["NONE", "BLOCK", "DECODER"])
def test_x(remat):
    bare("tunix")
    model = llama(remat)
    ids = tokens(30); pos=jnp.broadcast_to(jnp.arange(6), ids.shape); mask = jnp.broadcast_to(jnp.tril(jnp.ones((6,6), bool)), (2,6,6))
    nnx.update(model, randomised(nnx.state(model)))
    apply, params = actigrad.observe(model)
    loss = lambda p, b: uneven(apply(p, ids, pos, None, mask)[0])
    f = actigrad.capture(loss)(params, {})
    for s in f.sites: print(s.path, s.kind, s.shape)
    out, inter = nnx.capture(model, nnx.Intermediate, method_outputs=nnx.Intermediate)(ids, pos, None, mask)
    for k, v in inter.flat_state(): print(k, jax.tree.map(jnp.shape, v))
    1/0
