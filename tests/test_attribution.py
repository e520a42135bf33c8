"""Attribution: completeness, closed forms, and the same numbers as a loop by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import actigrad
from actigrad.errors import CaptureError, NoSuchSite

RNG = np.random.default_rng(0)
PARAMS = {
    "w": jnp.asarray(RNG.normal(size=(4, 5)), jnp.float32),
    "v": jnp.asarray(RNG.normal(size=(5, 5)), jnp.float32),
}
BATCH = {"x": jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32), "label": jnp.asarray([0, 1, 2])}


def losses(params, batch):
    x = actigrad.tap(jnp.tanh(batch["x"] @ params["w"]), "stem")
    x, _ = jax.lax.scan(lambda x, _: (actigrad.tap(x + jnp.tanh(x @ params["v"]), "block"), None), x, length=3)
    x = actigrad.tap(x, "trunk")
    return jnp.take_along_axis(jax.nn.softplus(x), batch["label"][:, None], axis=1)[:, 0], {"out": x}


def total(params, batch):
    return losses(params, batch)[0].sum()


def test_gradient_times_activation_is_their_product_at_every_site():
    frame = actigrad.capture(losses)(PARAMS, BATCH)
    found = actigrad.gradient_times_activation(frame)
    assert set(found) == {"stem", "block", "trunk"}
    np.testing.assert_array_equal(found["block"], frame.gradients["block"] * frame.activations["block"])


def test_a_patched_site_is_what_follows_it_applied_to_the_value():
    value = jnp.asarray(RNG.normal(size=(3, 5)), jnp.float32)
    found, aux = actigrad.patch(losses, "trunk")(value, PARAMS, BATCH)
    np.testing.assert_array_equal(aux["out"], value)
    np.testing.assert_allclose(found, jax.nn.softplus(value)[jnp.arange(3), BATCH["label"]], rtol=1e-6)


def test_a_patched_loop_gives_each_iteration_its_own_value():
    values = jnp.asarray(RNG.normal(size=(3, 3, 5)), jnp.float32)
    _, aux = actigrad.patch(losses, "block")(values, PARAMS, BATCH)
    np.testing.assert_array_equal(aux["out"], values[-1])


def test_patching_in_what_was_there_changes_nothing():
    frame = actigrad.capture(losses)(PARAMS, BATCH)
    for path, value in frame.activations.items():
        found, _ = jax.jit(actigrad.patch(losses, path))(value, PARAMS, BATCH)
        np.testing.assert_allclose(found, frame.losses, rtol=1e-6)


def test_what_cannot_be_patched_is_told():
    with pytest.raises(CaptureError, match=r"'trunk' has shape \(3,\); expected \(3, 5\)"):
        actigrad.patch(losses, "trunk")(jnp.ones(3), PARAMS, BATCH)
    with pytest.raises(NoSuchSite, match="trunk"):
        actigrad.patch(losses, "trnk")(jnp.ones(3), PARAMS, BATCH)
    branch = lambda params, batch: jnp.sum(
        jax.lax.cond(batch["x"][0, 0] > 0, lambda x: actigrad.tap(x, "yes"), jnp.sin, batch["x"])
    )
    with pytest.raises(CaptureError, match="'yes': it is inside a branch"):
        actigrad.patch(branch, "yes")(BATCH["x"], PARAMS, BATCH)
    rule = jax.custom_jvp(lambda x: actigrad.tap(x * 2, "within"))
    rule.defjvp(lambda primals, tangents: (rule(*primals), 2 * tangents[0]))
    with pytest.raises(CaptureError, match="'within': it is inside a custom_jvp_call"):
        actigrad.patch(lambda params, batch: jnp.sum(rule(batch["x"])), "within")(BATCH["x"], PARAMS, BATCH)
    condition = lambda x: actigrad.tap(jnp.sum(x), "size") < 9
    loop = lambda params, batch: jnp.sum(jax.lax.while_loop(condition, lambda x: x + 1, batch["x"]))
    with pytest.raises(CaptureError, match="'size': it stands in the condition"):
        actigrad.patch(loop, "size")(jnp.float32(1), PARAMS, BATCH)


def test_further_arguments_reach_the_patched_loss():
    loss = lambda params, batch, shift, *, twice: jnp.sum(actigrad.tap(batch["x"], "x") + shift) * (2 if twice else 1)
    found = actigrad.patch(loss, "x")(jnp.zeros((3, 4)), PARAMS, BATCH, jnp.float32(1), twice=True)
    assert found == 24


def test_integrated_gradients_of_the_inputs_add_up_to_the_change_of_the_loss():
    found = actigrad.integrated_gradients(losses, steps=256)(PARAMS, BATCH)
    assert found["label"] is None
    at_baseline = total(PARAMS, BATCH | {"x": jnp.zeros_like(BATCH["x"])})
    np.testing.assert_allclose(found["x"].sum(), total(PARAMS, BATCH) - at_baseline, rtol=1e-3)


def test_integrated_gradients_of_a_linear_loss_are_gradient_times_input_whatever_the_steps():
    linear = lambda params, batch: jnp.sum(actigrad.tap(batch["x"] @ params["w"], "h") @ params["v"])
    slope = jax.grad(lambda x: linear(PARAMS, {"x": x}))(BATCH["x"])
    found = actigrad.integrated_gradients(linear, steps=1)(PARAMS, {"x": BATCH["x"]})
    np.testing.assert_allclose(found["x"], slope * BATCH["x"], rtol=1e-5)
    baseline = {"x": jnp.ones_like(BATCH["x"])}
    found = actigrad.integrated_gradients(linear, steps=3)(PARAMS, {"x": BATCH["x"]}, baseline)
    np.testing.assert_allclose(found["x"], slope * (BATCH["x"] - 1), rtol=1e-5)


@pytest.mark.parametrize("site", ["stem", "block", "trunk"])
def test_integrated_gradients_at_a_site_add_up_too(site):
    actual = actigrad.capture(losses)(PARAMS, BATCH).activations[site]
    baseline = jnp.full_like(actual, 0.1)
    found = actigrad.integrated_gradients(losses, site, steps=64)(PARAMS, BATCH, baseline)
    assert found.shape == actual.shape
    change = total(PARAMS, BATCH) - actigrad.patch(losses, site)(baseline, PARAMS, BATCH)[0].sum()
    np.testing.assert_allclose(found.sum(), change, rtol=1e-3)


def test_integrated_gradients_need_a_step():
    with pytest.raises(CaptureError, match="steps=0; expected at least 1"):
        actigrad.integrated_gradients(losses, steps=0)


def test_smooth_gradients_are_the_mean_of_those_of_noisy_copies():
    key, noise, n = jax.random.key(0), 0.2, 5
    found = jax.jit(actigrad.smooth_gradients(losses, noise=noise, samples=n))(PARAMS, BATCH, key)
    spread = noise * (BATCH["x"].max() - BATCH["x"].min())
    by_hand = []
    for one in jax.random.split(key, n):
        draws = dict(zip(("label", "x"), jax.random.split(one, 2), strict=True))  # leaves in order of their keys
        noisy = BATCH["x"] + spread * jax.random.normal(draws["x"], BATCH["x"].shape)
        by_hand.append(actigrad.capture(losses)(PARAMS, BATCH | {"x": noisy}))
    mean = lambda pick: np.mean([pick(frame) for frame in by_hand], axis=0)
    for path in ("stem", "block"):
        np.testing.assert_allclose(found.gradients[path], mean(lambda f, p=path: f.gradients[p]), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.input_gradients["x"], mean(lambda f: f.input_gradients["x"]), rtol=1e-4, atol=1e-6)
    assert found.activations == {}


def test_without_noise_smooth_gradients_are_the_gradients():
    plain = actigrad.capture(losses, sites="trunk")(PARAMS, BATCH)
    found = actigrad.smooth_gradients(losses, sites="trunk", noise=0.0, samples=3)(PARAMS, BATCH, jax.random.key(1))
    np.testing.assert_allclose(found.gradients["trunk"], plain.gradients["trunk"], rtol=1e-6)
    assert list(found.gradients) == ["trunk"]


def test_many_steps_in_half_precision_are_summed_in_single():
    x = jnp.full((1, 2), 3, jnp.bfloat16)
    found = actigrad.integrated_gradients(lambda params, batch: jnp.sum(batch["x"]), steps=2000)({}, {"x": x})
    np.testing.assert_array_equal(found["x"], x)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_what_it_is(dtype):
    small = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, (PARAMS, BATCH))
    assert actigrad.integrated_gradients(losses, steps=4)(*small)["x"].dtype == dtype
    assert actigrad.integrated_gradients(losses, "stem", steps=4)(*small).dtype == dtype
    assert actigrad.smooth_gradients(losses, samples=2)(*small, jax.random.key(0)).gradients["stem"].dtype == dtype
