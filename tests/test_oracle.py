"""What capture says of the zoo's networks equals independent NumPy implementations, themselves checked by differences.

A chain with two links: captured values equal the oracle's, written by hand in float64; the oracle's gradients equal
central differences of its own forward pass at every site, every parameter and the input.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

import actigrad
import oracle
from actigrad.runs.job import named_leaves
from actigrad.zoo import decoder, digits

LAYERS, HEADS = 3, 2
DIGITS = {key: values[:12] for key, values in digits.load().items()}
# Off the blank background, where pooled values tie: there rounding decides which of them the gradient goes to.
DIGITS["image"] = DIGITS["image"] + np.random.default_rng(1).normal(size=(12, 8, 8, 1)).astype(np.float32) / 10
TEXT = {key: values[:5] for key, values in decoder.load(length=11).items()}
RUN = {
    "digits": lambda params, batch, **nudges: oracle.run_digits(params, batch["image"], batch["label"], **nudges),
    "decoder": lambda params, batch, **nudges: oracle.run_decoder(
        params, batch["tokens"], batch["next"], layers=LAYERS, heads=HEADS, **nudges
    ),
}


@dataclass
class Case:
    """What capture says of a network, and what the oracle says."""

    frame: Any
    answer: Any
    input_name: str

    @property
    def scanned(self):
        return "blocks" in self.frame.activations

    def expected(self, values, path):
        """The oracle's value at a path; blocks stacked where the network scans over them."""
        if not self.scanned or not path.startswith("blocks"):
            return values[path]
        return np.stack([values[path.replace("blocks", f"blocks/{i}", 1)] for i in range(LAYERS)])


def flat(params):
    """Parameters by path in float64, stacked blocks apart."""
    leaves = {path: np.asarray(leaf, np.float64) for path, leaf in named_leaves(params).items()}
    if "blocks/norm1/scale" not in leaves:
        return leaves
    stacked = {path: leaves.pop(path) for path in list(leaves) if path.startswith("blocks/")}
    apart = {path.replace("blocks", f"blocks/{i}", 1): leaf[i] for path, leaf in stacked.items() for i in range(LAYERS)}
    return leaves | apart


def shaken(params):
    """Biases off zero and scales off one: a forgotten bias would not show at its initial value."""
    random = np.random.default_rng(5)
    return jax.tree.map(lambda p: p + 0.1 * random.normal(size=p.shape).astype(np.float32), params)


def small_decoder(**options):
    return decoder.build(seed=3, layers=LAYERS, width=8, heads=HEADS, context=16, **options)


NETWORKS = {
    "digits": (lambda: digits.build(seed=1, width=8), digits.loss, DIGITS),
    "digits-trained": (lambda: digits.build(seed=1, width=8), digits.loss, DIGITS),
    "decoder": (partial(small_decoder, scan=False), decoder.loss, TEXT),
    "decoder-scan": (partial(small_decoder, scan=True), decoder.loss, TEXT),
    "decoder-remat": (partial(small_decoder, scan=False, remat=True), decoder.loss, TEXT),
    "decoder-scan-remat": (partial(small_decoder, scan=True, remat=True), decoder.loss, TEXT),
}


@pytest.fixture(scope="module", params=NETWORKS)
def case(request):
    build, loss, batch = NETWORKS[request.param]
    apply, params = actigrad.observe(build())
    bound = partial(loss, apply)
    if request.param == "digits-trained":
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
            *_, (_, params) = digits.train(bound, params, digits.load(), steps=30, seed=0)
    else:
        params = shaken(params)
    answer = RUN[request.param.partition("-")[0]](flat(params), batch)
    return Case(actigrad.capture(bound)(params, batch), answer, "image" if loss is digits.loss else "")


def far(found, expected):
    """Relative errors above 1e-4, by path: the largest difference over the largest value."""
    assert set(found) == set(expected)
    errors = {
        path: float(np.abs(np.asarray(found[path], np.float64) - expected[path]).max() / np.abs(expected[path]).max())
        for path in found
        if found[path].shape == expected[path].shape
    }
    assert set(errors) == set(found)
    return {path: error for path, error in errors.items() if not error <= 1e-4}


def test_the_oracle_has_every_site_of_the_model_with_its_kind(case):
    kinds = {site.path: site.kind for site in case.frame.sites}
    if case.scanned:
        apart = {path.replace("blocks", f"blocks/{i}", 1): kind for path, kind in kinds.items() for i in range(LAYERS)}
        kinds = {path: kind for path, kind in apart.items() if path in case.answer.kinds}
    assert kinds == case.answer.kinds


def test_every_kind_of_layer_of_the_oracle_is_in_a_model():
    made = [RUN["digits"](flat(actigrad.observe(digits.build(width=8))[1]), DIGITS)]
    made += [RUN["decoder"](flat(actigrad.observe(small_decoder())[1]), TEXT)]
    assert set(oracle.KINDS) <= {kind for answer in made for kind in answer.kinds.values()}


def test_losses_and_predictions_equal_the_oracle(case):
    np.testing.assert_allclose(case.frame.losses, case.answer.losses, rtol=1e-4)
    np.testing.assert_allclose(case.frame.loss, case.answer.losses.sum(), rtol=1e-4)
    if case.input_name:
        np.testing.assert_array_equal(case.frame.aux["prediction"], case.answer.activations["head/logits"].argmax(1))


@pytest.mark.parametrize("quantity", ["activations", "gradients"])
def test_every_site_equals_the_oracle(case, quantity):
    assert case.frame.missing == {}
    found, values = getattr(case.frame, quantity), getattr(case.answer, quantity)
    assert set(found) == {site.path for site in case.frame.sites}
    assert far(found, {path: case.expected(values, path) for path in found}) == {}


def test_every_parameter_gradient_equals_the_oracle(case):
    assert far(flat(case.frame.parameter_gradients), case.answer.parameters) == {}


def test_the_input_gradient_equals_the_oracle(case):
    slopes = {name: slope for name, slope in case.frame.input_gradients.items() if slope is not None}
    assert far(slopes, {case.input_name: case.answer.input} if case.input_name else {}) == {}


def test_a_comparison_sees_one_wrong_element_and_a_missing_path():
    right = np.ones((3, 4))
    wrong = right.copy()
    wrong[1, 2] += 2e-4
    assert far({"a": right, "b": wrong}, {"a": right, "b": right}).keys() == {"b"}
    with pytest.raises(AssertionError):
        far({"a": right}, {"a": right, "b": right})


@pytest.mark.parametrize("name", RUN)
def test_the_oracle_s_gradients_equal_central_differences_everywhere(name):
    build, _, batch = NETWORKS[name]
    params, random = flat(shaken(actigrad.observe(build())[1])), np.random.default_rng(0)
    answer = RUN[name](params, batch)

    def differs(gradient, total, moved=True):
        """Whether the slope along a random direction is not what the gradient says."""
        direction = random.normal(size=gradient.shape) * moved
        difference = (total(1e-6 * direction) - total(-1e-6 * direction)) / 2e-6
        scale = np.linalg.norm(gradient) * np.linalg.norm(direction) / np.sqrt(gradient.size)
        return not abs(difference - np.sum(gradient * direction)) <= 1e-5 * scale

    of_site = lambda path: lambda step: RUN[name](params, batch, nudges={path: step}).losses.sum()
    of_parameter = lambda path: lambda step: RUN[name](params | {path: params[path] + step}, batch).losses.sum()
    # Zeros behind a ReLU tie in the pool as well; they stay where they are.
    free = {path: values != 0 if name == "digits" else True for path, values in answer.activations.items()}
    wrong = [path for path, gradient in answer.gradients.items() if differs(gradient, of_site(path), free[path])]
    wrong += [path for path, gradient in answer.parameters.items() if differs(gradient, of_parameter(path))]
    if name == "digits":
        of_input = lambda step: RUN[name](params, batch | {"image": batch["image"] + step}).losses.sum()
        wrong += ["image"] if differs(answer.input, of_input) else []
    assert wrong == []
    assert set(answer.gradients) == set(answer.kinds)
    assert set(answer.parameters) == set(params)
