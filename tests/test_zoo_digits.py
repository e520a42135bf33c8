"""The digits model and its data."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import actigrad
from actigrad.zoo import digits

DATA = digits.load()


@pytest.fixture(autouse=True)
def promotion_as_optax_needs_it():
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def model():
    apply, params = actigrad.observe(digits.build(seed=0))
    return apply, params, lambda params, batch: digits.loss(apply, params, batch)


def test_the_data_are_1797_images_in_the_unit_range_with_a_fifth_held_out():
    assert DATA["image"].shape == (1797, 8, 8, 1)
    assert DATA["image"].dtype == np.float32
    assert (DATA["image"].min(), DATA["image"].max()) == (0, 1)
    assert np.bincount(DATA["split"]).tolist() == [1438, 359]
    assert set(DATA["label"]) == set(range(10))


def test_it_reads_97_percent_of_the_held_out_images_after_400_updates(model):
    apply, params, loss = model
    *_, (step, trained) = digits.train(loss, params, DATA, steps=400, seed=0)
    assert step == 400
    assert digits.accuracy(apply, trained, DATA) >= 0.97


def test_it_has_14_sites_in_forward_order(model):
    _, params, loss = model
    sites = actigrad.list_sites(loss, params, {key: values[:4] for key, values in DATA.items()})
    assert len(sites) == 14
    assert [site.path for site in sites][:4] == ["block1/conv", "block1/norm", "block1/relu", "block1"]
    assert all(site.feeds for site in sites)


def test_the_gradient_of_a_sample_does_not_depend_on_who_else_is_in_the_batch(model):
    _, params, loss = model
    capture = actigrad.capture(loss, parameters=False)
    many = capture(params, {key: values[:9] for key, values in DATA.items()})
    one = capture(params, {key: values[4:5] for key, values in DATA.items()})
    for path in many.gradients:
        np.testing.assert_allclose(many.gradients[path][4:5], one.gradients[path], rtol=1e-4, atol=1e-6)


def test_training_is_the_same_for_the_same_seed_and_another_for_another(model):
    _, params, loss = model
    last = lambda seed: [p for _, p in digits.train(loss, params, DATA, steps=3, seed=seed)][-1]
    a, b, c = last(0), last(0), last(1)
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))
    assert not jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, c))


def test_training_never_sees_the_held_out_images(model):
    _, params, loss = model
    spoiled = DATA | {"image": np.where(DATA["split"][:, None, None, None] == 1, np.nan, DATA["image"])}
    ends = [list(digits.train(loss, params, data, steps=20, seed=0))[-1][1] for data in (DATA, spoiled)]
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), *ends))
    assert any(bool((p != q).any()) for p, q in zip(jax.tree.leaves(ends[0]), jax.tree.leaves(params), strict=True))


def test_another_image_size_is_refused_by_its_shape(model):
    _, params, loss = model
    with pytest.raises(jaxtyping.TypeCheckError, match="sample 8 8 1"):
        jax.eval_shape(loss, params, {"image": np.zeros((2, 9, 9, 1), np.float32), "label": np.zeros(2, np.int32)})


def test_the_score_is_the_logit_of_the_label_or_of_the_digit_that_is_asked_for():
    data = {name: values[:6] for name, values in digits.load().items()}
    apply, params = actigrad.observe(digits.build(seed=1, width=4))
    logits = np.asarray(apply(params, jnp.asarray(data["image"])))
    found = digits.score(lambda params, image: jnp.asarray(logits), params, data)
    np.testing.assert_array_equal(found, logits[np.arange(6), data["label"]])
    np.testing.assert_array_equal(digits.score(lambda *_: jnp.asarray(logits), params, data, digit=3), logits[:, 3])
