"""What capture says of the digits network equals an independent NumPy implementation, itself checked by differences."""

import jax
import numpy as np
import pytest

import actigrad
import oracle
from actigrad.job import named_leaves
from actigrad.zoo import digits

DATA = digits.load()
BATCH = {key: values[:12] for key, values in DATA.items()}
CONTAINERS = {"ConvBlock": "relu", "Head": "logits"}


@pytest.fixture(scope="module", params=["initial", "trained"])
def both(request):
    """The frame, and the oracle's answer, before training and after 30 updates."""
    apply, params = actigrad.observe(digits.build(seed=1, width=8))
    loss = lambda params, batch: digits.loss(apply, params, batch)
    if request.param == "trained":
        with jax.numpy_dtype_promotion("standard"):  # optax divides integers by floats
            *_, (_, params) = digits.train(loss, params, DATA, steps=30, seed=0)
    answer = oracle.run(jax.tree.map(np.asarray, params), BATCH["image"], BATCH["label"])
    return actigrad.capture(loss)(params, BATCH), answer


def assert_close(found, expected, name):
    error = np.abs(np.asarray(found, np.float64) - expected).max() / np.abs(expected).max()
    assert error <= 1e-4, f"{name}: relative error {error:.1e}"


def test_the_oracle_covers_every_kind_of_layer_in_the_model(both):
    frame, _ = both
    kinds = {site.kind for site in frame.sites}
    assert kinds - set(CONTAINERS) == set(oracle.KINDS)
    assert {site.path for site in frame.sites if site.kind not in CONTAINERS} == {path for path, _ in oracle.LAYERS}


def test_losses_and_predictions_equal_the_oracle(both):
    frame, (losses, activations, *_) = both
    assert_close(frame.losses, losses, "losses")
    np.testing.assert_array_equal(frame.aux["prediction"], activations["head/logits"].argmax(1))


@pytest.mark.parametrize("path", [path for path, _ in oracle.LAYERS])
def test_activation_and_gradient_of_every_layer_equal_the_oracle(both, path):
    frame, (_, activations, gradients, *_) = both
    assert_close(frame.activations[path], activations[path], f"activation of {path}")
    assert_close(frame.gradients[path], gradients[path], f"gradient at {path}")


def test_a_module_that_holds_others_has_the_values_of_its_last(both):
    frame, (_, activations, gradients, *_) = both
    for container in (site for site in frame.sites if site.kind in CONTAINERS):
        last = f"{container.path}/{CONTAINERS[container.kind]}"
        assert_close(frame.activations[container.path], activations[last], container.path)
        assert_close(frame.gradients[container.path], gradients[last], container.path)


def test_parameter_and_input_gradients_equal_the_oracle(both):
    frame, (*_, parameters, slope) = both
    found = named_leaves(frame.parameter_gradients)
    assert set(found) == set(parameters)
    for path, expected in parameters.items():
        assert_close(found[path], expected, path)
    assert_close(frame.input_gradients["image"], slope, "input")
    assert frame.input_gradients["label"] is None


def test_the_oracle_s_own_gradient_equals_central_differences_in_float64():
    _, params = actigrad.observe(digits.build(seed=1, width=8))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    random = np.random.default_rng(0)
    # Off the blank background, where pooled values tie: a difference across a tie is no derivative.
    image = BATCH["image"] + random.normal(size=BATCH["image"].shape) / 10
    *_, parameters, slope = oracle.run(params, image, BATCH["label"])
    total = lambda params, image: oracle.run(params, image, BATCH["label"])[0].sum()
    for path, gradient in parameters.items():
        *front, last = path.split("/")
        owner = params
        for part in front:
            owner = owner[part]
        direction = random.normal(size=gradient.shape)
        before = owner[last]
        ends = []
        for sign in (1, -1):
            owner[last] = before + sign * 1e-6 * direction
            ends.append(total(params, image))
        owner[last] = before
        np.testing.assert_allclose((ends[0] - ends[1]) / 2e-6, np.sum(gradient * direction), rtol=1e-4, err_msg=path)
    direction = random.normal(size=slope.shape)
    ends = [total(params, image + sign * 1e-6 * direction) for sign in (1, -1)]
    np.testing.assert_allclose((ends[0] - ends[1]) / 2e-6, np.sum(slope * direction), rtol=1e-4)
