"""capture as a transformation: what a JAX user expects of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import actigrad
from actigrad.errors import CaptureError, NoSuchSite
from actigrad.reduce import Full, Summary

RNG = np.random.default_rng(0)
PARAMS = {
    "w": jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32),
    "v": jnp.asarray(RNG.normal(size=(4, 2)), jnp.float32),
}
BATCH = {"x": jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32), "label": jnp.asarray([0, 1, 1, 0, 1], jnp.int32)}


def outputs(params, batch):
    hidden = actigrad.tap(jnp.tanh(batch["x"] @ params["w"]), "hidden", kind="Dense")
    return actigrad.tap(hidden @ params["v"], "out", kind="Dense")


def per_sample(params, batch):
    logits = jax.nn.log_softmax(outputs(params, batch))
    return -jnp.take_along_axis(logits, batch["label"][:, None], axis=1)[:, 0]


def scalar(params, batch):
    return per_sample(params, batch).mean()


def with_aux(params, batch):
    return per_sample(params, batch), {"logits": outputs(params, batch)}


def test_a_frame_holds_what_value_and_grad_returns_bit_for_bit():
    frame = actigrad.capture(scalar)(PARAMS, BATCH)
    value, gradient = jax.jit(jax.value_and_grad(scalar))(PARAMS, BATCH)
    assert frame.loss.tobytes() == value.tobytes()
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), frame.parameter_gradients, gradient))
    assert frame.losses is None
    assert frame.aux is None


def test_per_sample_losses_give_the_gradients_of_their_sum():
    frame = actigrad.capture(per_sample)(PARAMS, BATCH)
    np.testing.assert_allclose(frame.losses, per_sample(PARAMS, BATCH), rtol=1e-6)
    np.testing.assert_allclose(frame.loss, per_sample(PARAMS, BATCH).sum(), rtol=1e-6)
    mean = actigrad.capture(scalar)(PARAMS, BATCH)
    np.testing.assert_allclose(frame.gradients["hidden"], 5 * mean.gradients["hidden"], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_losses_of_samples_are_summed_in_float32_whatever_they_are(dtype):
    frame = actigrad.capture(lambda params, batch: batch["x"])({}, {"x": jnp.ones(4097, dtype)})  # no such half float
    assert (frame.loss.dtype, float(frame.loss)) == (jnp.float32, 4097)


def test_what_the_loss_returns_beside_itself_is_in_the_frame():
    frame = actigrad.capture(with_aux)(PARAMS, BATCH)
    np.testing.assert_allclose(frame.aux["logits"], frame.activations["out"], rtol=1e-6)
    assert set(frame.activations) == {"hidden", "out", "hidden#1", "out#1"}


def test_input_gradients_have_none_where_the_batch_is_integer():
    frame = actigrad.capture(scalar)(PARAMS, BATCH)
    assert frame.input_gradients["label"] is None
    expected = jax.grad(lambda x: scalar(PARAMS, {**BATCH, "x": x}))(BATCH["x"])
    np.testing.assert_allclose(frame.input_gradients["x"], expected, rtol=1e-5)


def test_gradients_equal_central_differences_in_float64():
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), PARAMS)
        batch = {**BATCH, "x": np.asarray(BATCH["x"], np.float64)}
        frame = actigrad.capture(scalar)(params, batch)

        def nudged(where, eps):
            def after(params, batch):
                hidden = jnp.tanh(batch["x"] @ params["w"]).at[where].add(eps)
                logits = jax.nn.log_softmax(hidden @ params["v"])
                return -jnp.take_along_axis(logits, batch["label"][:, None], axis=1).mean()

            return float(after(params, batch))

        for where in [(0, 0), (2, 3), (4, 1)]:
            difference = (nudged(where, 1e-5) - nudged(where, -1e-5)) / 2e-5
            np.testing.assert_allclose(frame.gradients["hidden"][where], difference, rtol=1e-6)


@pytest.mark.parametrize("off", ["gradients", "parameters", "inputs"])
def test_what_is_switched_off_is_not_there_and_the_rest_is_the_same(off):
    options: dict[str, Any] = {off: False}
    frame, whole = actigrad.capture(scalar, **options)(PARAMS, BATCH), actigrad.capture(scalar)(PARAMS, BATCH)
    assert not (
        frame.gradients
        if off == "gradients"
        else getattr(frame, f"{off[:-1].replace('input', 'input')}_gradients", None)
    )
    np.testing.assert_array_equal(frame.activations["hidden"], whole.activations["hidden"])


def test_with_all_gradients_off_nothing_is_differentiated():
    capture = actigrad.capture(scalar, gradients=False, parameters=False, inputs=False)
    program = str(jax.make_jaxpr(capture)(PARAMS, BATCH))
    assert "transpose" not in program
    assert set(capture(PARAMS, BATCH).activations) == {"hidden", "out"}


def test_taps_leave_nothing_in_the_compiled_program():
    def bare(params, batch):
        logits = jax.nn.log_softmax(jnp.tanh(batch["x"] @ params["w"]) @ params["v"])
        return (-jnp.take_along_axis(logits, batch["label"][:, None], axis=1)[:, 0]).mean()

    texts = [jax.jit(jax.value_and_grad(f)).lower(PARAMS, BATCH).as_text() for f in (scalar, bare)]
    assert texts[0].replace("scalar", "bare") == texts[1]


def test_capturing_no_site_leaves_the_plain_program():
    capture = actigrad.capture(lambda params, batch: jnp.sum(batch["x"] @ params["w"]), gradients=False)
    assert not capture(PARAMS, BATCH).activations
    assert "custom_jvp" not in str(jax.make_jaxpr(capture)(PARAMS, BATCH))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_special_values_pass_a_tap_bit_for_bit(dtype):
    values = jnp.asarray([-0.0, 0.0, jnp.nan, jnp.inf, -jnp.inf, 1e-40, 3.0], dtype)
    frame = actigrad.capture(lambda params, batch: jnp.sum(actigrad.tap(batch["x"], "x") * 2))({}, {"x": values[None]})
    assert np.asarray(frame.activations["x"]).tobytes() == np.asarray(values).tobytes()
    assert frame.gradients["x"].dtype == values.dtype


def test_a_complex_site_has_the_gradient_of_the_explicit_probe():
    x = jnp.asarray([[1 + 2j, 3 - 1j]], jnp.complex64)
    loss = lambda probe: jnp.sum(jnp.abs((x * (2 + 1j)) + probe) ** 2)
    frame = actigrad.capture(lambda params, batch: jnp.sum(jnp.abs(actigrad.tap(batch["x"] * (2 + 1j), "z")) ** 2))(
        {}, {"x": x}
    )
    np.testing.assert_allclose(frame.gradients["z"], jax.grad(loss)(jnp.zeros_like(x)), rtol=1e-6)


def test_an_integer_site_has_an_activation_and_a_reason_for_no_gradient():
    def loss(params, batch):
        actigrad.tap(jnp.argmax(batch["x"], axis=1), "which")
        return jnp.sum(batch["x"])

    frame = actigrad.capture(loss)({}, BATCH)
    np.testing.assert_array_equal(frame.activations["which"], np.argmax(BATCH["x"], axis=1))
    assert "int32" in frame.missing["which", "gradient"]
    assert not actigrad.capture(loss, gradients=False)({}, BATCH).missing  # none was asked for


def test_a_prng_key_can_be_a_site_and_be_among_the_params():
    def loss(params, batch):
        key = actigrad.tap(jax.random.fold_in(params["key"], 1), "key")
        return jnp.sum(batch["x"] * jax.random.normal(key, batch["x"].shape))

    frame = actigrad.capture(loss)({"key": jax.random.key(0)}, BATCH)
    assert frame.parameter_gradients == {"key": None}
    assert frame.activations["key"] == jax.random.fold_in(jax.random.key(0), 1)


def test_a_site_that_does_not_reach_the_loss_has_a_zero_gradient_and_is_listed():
    def loss(params, batch):
        h = actigrad.tap(batch["x"] * 2, "used")
        actigrad.tap(h * 3, "deadend")
        actigrad.tap(jax.lax.stop_gradient(h), "cut")
        return jnp.sum(h)

    for reduce in (None, Full()):
        frame = actigrad.capture(loss, reduce=reduce)({}, BATCH)
        assert frame.unreached == ("deadend", "cut")
        np.testing.assert_array_equal(frame.gradients["deadend"], np.zeros((5, 3)))
    frame = actigrad.capture(loss, exclude="dead*")({}, BATCH)
    assert set(frame.activations) == set(frame.gradients) == {"used", "cut"}
    assert frame.unreached == ("cut",)


def test_static_arguments_choose_the_program_and_arrays_are_traced():
    traces = []

    def loss(params, batch, factor, *, double=False, mode="a"):
        traces.append(mode)
        return jnp.sum(actigrad.tap(batch["x"] * factor, "x")) * (2.0 if double else 1.0)

    capture = actigrad.capture(loss)
    a = capture({}, BATCH, jnp.float32(2), double=True)
    b = capture({}, BATCH, jnp.float32(3), double=True)
    assert len(traces) == 1
    np.testing.assert_allclose(a.gradients["x"], 2.0)
    np.testing.assert_allclose(b.activations["x"], 3 * BATCH["x"], rtol=1e-6)
    assert capture({}, BATCH, jnp.float32(2), mode="b").loss != a.loss
    assert traces == ["a", "b"]


def test_it_is_traced_once_a_shape():
    traces = []

    def loss(params, batch):
        traces.append(1)
        return scalar(params, batch)

    capture = actigrad.capture(loss)
    for n in (5, 5, 3, 5):
        capture(PARAMS, {key: value[:n] for key, value in BATCH.items()})
    assert len(traces) == 2


def test_it_composes_with_jit_vmap_and_grad():
    capture = actigrad.capture(scalar)
    one = capture(PARAMS, BATCH)
    jitted = jax.jit(capture)(PARAMS, BATCH)
    np.testing.assert_array_equal(jitted.gradients["hidden"], one.gradients["hidden"])
    many = jax.vmap(capture, in_axes=(None, 0))(PARAMS, jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), BATCH))
    np.testing.assert_allclose(many.gradients["hidden"][1], one.gradients["hidden"], rtol=1e-5)
    size = lambda params: jnp.sum(jnp.square(capture(params, BATCH).gradients["hidden"]))
    eps = jnp.zeros_like(PARAMS["v"]).at[0, 0].set(1e-2)
    slope = jax.grad(size)(PARAMS)["v"][0, 0]
    difference = (size(PARAMS | {"v": PARAMS["v"] + eps}) - size(PARAMS | {"v": PARAMS["v"] - eps})) / 2e-2
    np.testing.assert_allclose(slope, difference, rtol=2e-2)


def test_activations_can_be_differentiated_as_the_plain_values_can():
    def hidden(params, mark):
        step = lambda x, _: (mark(jnp.tanh(x @ params["w"] @ params["w"].T), "loop"),) * 2
        return jax.lax.scan(step, BATCH["x"], length=3)[1]

    capture = actigrad.capture(lambda params, batch: jnp.sum(hidden(params, actigrad.tap)[-1]))
    found = jax.grad(lambda params: jnp.sum(capture(params, BATCH).activations["loop"] ** 3))(PARAMS)
    expected = jax.grad(lambda params: jnp.sum(hidden(params, lambda x, _: x) ** 3))(PARAMS)
    np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-4)


def test_a_sharded_batch_gives_the_same_frame():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    batch = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:3]]), BATCH)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    a = actigrad.capture(scalar)(PARAMS, batch)
    b = actigrad.capture(scalar)(PARAMS, jax.device_put(batch, sharding))
    np.testing.assert_allclose(a.gradients["hidden"], b.gradients["hidden"], rtol=1e-5)
    assert not b.activations["hidden"].sharding.is_fully_replicated


def test_a_donated_argument_is_captured_all_the_same():
    donating = jax.jit(scalar, donate_argnums=0)
    frame = actigrad.capture(donating)(PARAMS, BATCH)
    assert not PARAMS["w"].is_deleted()
    np.testing.assert_allclose(frame.loss, scalar(PARAMS, BATCH), rtol=1e-6)


def test_zero_size_arrays_and_empty_batches_pass():
    frame = actigrad.capture(lambda params, batch: jnp.sum(outputs(params, batch)))(PARAMS, {"x": jnp.zeros((0, 3))})
    assert frame.activations["hidden"].shape == frame.gradients["hidden"].shape == (0, 4)


def test_a_value_that_is_named_for_remat_policies_is_a_site():
    from jax.ad_checkpoint import checkpoint_name

    frame = actigrad.capture(lambda params, batch: jnp.sum(checkpoint_name(batch["x"] * 2, "doubled")))({}, BATCH)
    np.testing.assert_array_equal(frame.activations["doubled"], 2 * BATCH["x"])


def test_sites_are_listed_from_shapes_alone():
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (PARAMS, BATCH))
    sites = actigrad.list_sites(scalar, *shapes)
    assert [(s.path, s.shape, s.dims, s.kind, s.feeds) for s in sites] == [
        ("hidden", (5, 4), ("sample", "neuron"), "Dense", ("out",)),
        ("out", (5, 2), ("sample", "neuron"), "Dense", ("loss",)),
    ]


def test_arrays_that_disagree_on_how_many_samples_there_are_give_no_sample_axis():
    loss = lambda params, batch: jnp.sum(actigrad.tap(batch["x"] * 2, "x")) + jnp.sum(batch["weights"])
    (site,) = actigrad.list_sites(loss, {}, {"x": BATCH["x"], "weights": jnp.ones(7), "scale": jnp.float32(2)})
    assert site.dims == ("d0", "neuron")


def test_reductions_can_differ_by_site_and_quantity():
    def choose(site, quantity):
        return (
            {"hidden": {"full": Full(), "summary": Summary()}, "out": {}}[site.path] if quantity == "gradient" else None
        )

    frame, whole = actigrad.capture(scalar, reduce=choose)(PARAMS, BATCH), actigrad.capture(scalar)(PARAMS, BATCH)
    np.testing.assert_allclose(frame.gradients["hidden"]["full"], whole.gradients["hidden"], rtol=1e-6)
    rms = Summary().finalize(frame.gradients["hidden"]["summary"])["rms"]
    np.testing.assert_allclose(rms, np.sqrt(np.square(whole.gradients["hidden"]).mean(0)), rtol=1e-5)
    assert frame.gradients["out"] == {}
    np.testing.assert_array_equal(frame.activations["out"], whole.activations["out"])


def test_a_pattern_that_matches_nothing_shows_the_nearest_names():
    with pytest.raises(NoSuchSite, match=r"'hiden'.*'hidden'"):
        actigrad.capture(scalar, sites="hiden")(PARAMS, BATCH)


@pytest.mark.parametrize(
    ("value", "found"),
    [(lambda x: x, r"float32\[5, 3\]"), (lambda x: jnp.argmax(x), r"int32\[\]"), (lambda x: {"loss": x}, "a dict"),
     (lambda x: jax.lax.complex(jnp.sum(x), jnp.sum(x)), r"complex64\[\]")],
)  # fmt: skip
def test_what_is_no_loss_is_refused_with_what_was_found(value, found):
    with pytest.raises(CaptureError, match=found):
        actigrad.capture(lambda params, batch: value(batch["x"]))({}, BATCH)


def test_one_name_for_two_shapes_gives_two_sites():
    def loss(params, batch):
        return jnp.sum(actigrad.tap(batch["x"], "h")) + jnp.sum(actigrad.tap(batch["x"][:, :1], "h"))

    frame = actigrad.capture(loss)({}, BATCH)
    assert {path: value.shape for path, value in frame.activations.items()} == {"h": (5, 3), "h#1": (5, 1)}
