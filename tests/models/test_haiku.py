"""Haiku: what is captured of its own networks is what its interceptors see, and probes by hand say the same."""

import haiku as hk
import jax
import jax.numpy as jnp
import pytest

import actigrad
from models.foreign import assert_same, assert_true, assert_whole, images, randomised, some, uneven


def resnet(version):
    """A function of Haiku's ResNet; where its last convolutions look, batch norm still has 16 values to average."""

    def forward(x, is_training):
        net = hk.nets.ResNet(
            (1, 1, 1, 1), channels_per_group=(8, 8, 16, 16), strides=(1, 2, 2, 1), num_classes=5,
            bottleneck=version == 2, resnet_v2=version == 2,
        )  # fmt: skip
        return net(x, is_training)

    return hk.without_apply_rng(hk.transform_with_state(forward))


def of_haiku(run, probes=None):
    """The output of each module's `__call__`, with a probe added, under the names of the sites; then `run`'s own."""
    found = {}

    def see(call, args, kwargs, context):
        output = call(*args, **kwargs)
        if context.method_name != "__call__":
            return output
        name = context.module.module_name
        name += f"#{n}" if (n := sum(path.split("#")[0] == name for path in found)) else ""
        found[name] = output
        return output if probes is None else output + probes[name]

    with hk.intercept_methods(see):
        return found, run()


@pytest.mark.parametrize(("version", "training"), [(1, True), (2, False)])
def test_a_resnet_of_haiku_at_rest_and_in_training(version, training):
    model, x = resnet(version), images((4, 32, 32, 3))
    params, state = model.init(jax.random.key(0), x, True)  # the averages that a rest reads are made in training
    params = randomised(params)
    apply, both = actigrad.observe(model, params, state)
    loss = lambda params, batch: uneven(apply(params, batch, training))
    frame = actigrad.capture(loss)(both, x)
    assert_whole(frame)
    assert not frame.missing
    assert len(frame.sites) > 25

    activations, _ = jax.jit(lambda: of_haiku(lambda: model.apply(params, state, x, training)))()
    plain = lambda probes: uneven(of_haiku(lambda: model.apply(params, state, x, training)[0], probes)[1])
    gradients = jax.jit(jax.grad(plain))({path: jnp.zeros_like(value) for path, value in activations.items()})
    assert_same(frame.activations, activations)
    assert_same(frame.gradients, gradients)
    assert_true(loss, both, x, sites=some(frame))
