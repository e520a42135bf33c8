"""Flax NNX: what is captured of models of others is what `nnx.capture` gives, and probes by hand say the same.

The gradients are compared with those of explicit probes: zeros that every module's `__call__` adds to its output, by
which the loss of the plain module, without remat, is differentiated.
"""

# pyright: reportMissingImports=false
import warnings

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import actigrad
from models.foreign import assert_same, assert_true, assert_whole, bare, randomised, some, tokens, uneven

# tunix names shardings and reads variables as an older Flax had it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.sharding. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:tunix\..*"),
]


def llama(remat):
    bare("tunix")
    from tunix.models.llama3 import model

    config = model.ModelConfig(
        num_layers=2, vocab_size=30, embed_dim=16, hidden_dim=32, num_heads=4, head_dim=4, num_kv_heads=2,
        rope_theta=10_000, norm_eps=1e-5, remat_config=model.RematConfig[remat],
    )  # fmt: skip
    made = model.Llama3(config, rngs=nnx.Rngs(0))
    nnx.update(made, randomised(nnx.state(made)))
    return made


def of_nnx(model, *args):
    """What `nnx.capture` holds of every `__call__`, under the names of the sites."""
    _, held = nnx.capture(model, nnx.Intermediate, method_outputs=nnx.Intermediate)(*args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # State is to become a dict
        leaves = nnx.to_flat_state(held)
    found = {}
    for path, variable in leaves:
        if path[-1] == "__call__" and len(path) > 1:
            (output,) = variable.get_value()
            (found["/".join(map(str, path[:-1]))],) = jax.tree.leaves(output)
    return found


def probed_gradients(loss_of, model, activations, monkeypatch):
    """The gradients at all sites, by probes that the classes' `__call__` add."""
    paths = {id(module): "/".join(map(str, path)) for path, module in nnx.iter_modules(model)}
    probes = {}

    def probed(plain):
        def call(self, *args, **kwargs):
            output = plain(self, *args, **kwargs)
            return jax.tree.map(lambda x: x + probes[paths[id(self)]], output) if paths[id(self)] in probes else output

        return call

    def loss(zeros):
        probes.update(zeros)
        return loss_of(model)

    with monkeypatch.context() as patch:
        for module_type in {type(module) for _, module in nnx.iter_modules(model) if callable(module)}:
            patch.setattr(module_type, "__call__", probed(module_type.__call__))
        return jax.jit(jax.grad(loss))({path: jnp.zeros_like(x) for path, x in activations.items()})


@pytest.mark.parametrize("remat", ["NONE", "BLOCK", "DECODER"])
def test_a_llama_decoder_of_tunix_with_and_without_remat(remat, monkeypatch):
    ids = tokens(30)
    arguments = (ids, jnp.broadcast_to(jnp.arange(6), ids.shape), None, jnp.tril(jnp.ones((2, 6, 6), bool)))
    apply, params = actigrad.observe(llama(remat))
    loss = lambda params, batch: uneven(apply(params, *arguments)[0])
    frame = actigrad.capture(loss)(params, {})
    assert_whole(frame)
    assert not frame.missing

    plain = llama("NONE")
    activations = of_nnx(plain, *arguments)
    assert len(activations) == 26
    loss_of = lambda model: uneven(model(*arguments)[0])
    assert_same(frame.activations, activations)
    assert_same(frame.gradients, probed_gradients(loss_of, plain, activations, monkeypatch))
    assert_true(loss, params, {}, sites=some(frame))
