"""The decoder and its text: one model however its blocks are run, and one that learns."""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import actigrad
from actigrad.zoo import decoder

LAYERS = 3
DATA = decoder.load(length=32)
BATCH = {name: values[:6] for name, values in DATA.items()}
TINY: dict[str, Any] = {"layers": LAYERS, "width": 32, "heads": 2, "context": 32}


def observed(**options):
    apply, params = actigrad.observe(decoder.build(seed=0, **TINY | options))
    return partial(decoder.loss, apply), params


def stacked(tree):
    """Values by path, those of `blocks/0`, `blocks/1`, … stacked under `blocks`, as a scan has them."""
    leaves = jax.tree.leaves_with_path(tree)
    flat = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    parts = {path: re.sub("^blocks/[0-9]+", "blocks", path) for path in flat}
    groups = {path: [flat[part] for part in flat if parts[part] == path] for path in parts.values()}
    return {path: jnp.stack(group) if len(group) > 1 else group[0] for path, group in groups.items()}


def assert_equal_trees(found, expected, tolerance):
    found, expected = stacked(found), stacked(expected)
    assert set(found) == set(expected)
    for path, value in expected.items():
        bound = tolerance * float(jnp.abs(value).max())
        np.testing.assert_allclose(found[path], value, rtol=0, atol=bound, err_msg=path)


@pytest.fixture(scope="module")
def unrolled():
    loss, params = observed(scan=False)
    return params, actigrad.capture(loss)(params, BATCH)


def test_one_seed_gives_the_same_weights_scanned_and_unrolled(unrolled):
    assert_equal_trees(observed(scan=True)[1], unrolled[0], 0)
    other = actigrad.observe(decoder.build(seed=1, **TINY))[1]
    assert not np.array_equal(other["head"]["kernel"], unrolled[0]["head"]["kernel"])


def test_no_two_layers_have_the_same_weights():
    kernels = observed()[1]["blocks"]["attention"]["query"]["kernel"]
    assert len({kernel.tobytes() for kernel in np.asarray(kernels)}) == LAYERS


@pytest.mark.parametrize(("scan", "remat"), [(True, False), (True, True), (False, True)])
def test_scanned_and_rematerialised_equal_unrolled_at_every_site(unrolled, scan, remat):
    loss, params = observed(scan=scan, remat=remat)
    frame, expected = actigrad.capture(loss)(params, BATCH), unrolled[1]
    assert frame.missing == expected.missing == {}
    np.testing.assert_allclose(frame.losses, expected.losses, rtol=1e-5)
    for quantity in ("activations", "gradients", "parameter_gradients"):
        assert_equal_trees(getattr(frame, quantity), getattr(expected, quantity), 1e-5)


@pytest.mark.parametrize(("scan", "sites"), [(True, 17), (False, 43)])
def test_its_sites_are_the_outputs_of_its_modules(scan, sites):
    loss, params = observed(scan=scan)
    found = {site.path: site for site in actigrad.list_sites(loss, params, BATCH)}
    assert len(found) == sites
    block = "blocks" if scan else "blocks/1"
    assert found[f"{block}/attention/query"].dims == ("layer", "sample", "position", "neuron")[not scan :]
    assert found[f"{block}/attention/pattern"].sample_shape == (LAYERS, 2, 32, 32)[not scan :]
    assert found["head"].feeds == ("loss",)


def test_the_pattern_of_attention_is_causal_and_sums_to_one(unrolled):
    pattern = np.asarray(unrolled[1].activations["blocks/1/attention/pattern"])
    assert np.triu(pattern, 1).max() == 0
    np.testing.assert_allclose(pattern.sum(-1), 1, rtol=1e-6)


def test_no_token_is_read_before_its_position(unrolled):
    loss, params = observed(scan=False)
    changed = BATCH["tokens"].copy()
    changed[:, 20] = 0
    frame = actigrad.capture(loss, gradients=False)(params, BATCH | {"tokens": changed})
    head, before = frame.activations["head"], unrolled[1].activations["head"]
    np.testing.assert_array_equal(head[:, :20], before[:, :20])
    assert np.all(np.any(head[:, 20:] != before[:, 20:], axis=-1))


def test_it_computes_in_bfloat16_with_weights_in_float32(unrolled):
    loss, params = observed(dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    with jax.numpy_dtype_promotion("standard"):  # Flax's norm takes its statistics in float32 by promotion
        frame = actigrad.capture(loss)(params, BATCH)
    assert {site.dtype for site in frame.sites} == {"bfloat16"}
    assert frame.losses.dtype == jnp.float32
    np.testing.assert_allclose(frame.losses, unrolled[1].losses, rtol=0.02)


def test_the_text_is_english_in_pieces_that_do_not_overlap():
    assert {DATA["tokens"].shape, DATA["next"].shape} == {(1024, 32)}
    np.testing.assert_array_equal(DATA["tokens"][:, 1:], DATA["next"][:, :-1])
    assert np.bincount(DATA["split"]).tolist() == [922, 102]
    everything = decoder.load(length=1000, samples=400)["tokens"]
    assert len({piece.tobytes() for piece in everything}) == 400
    assert everything.astype(np.uint8).tobytes().decode(errors="replace").count(" the ") > 1000


def test_it_learns_more_than_how_often_each_byte_occurs():
    """In 100 updates, a tiny one predicts held-out text better than the best guess that does not look at the text."""
    apply, params = actigrad.observe(decoder.build(seed=0, layers=2, width=32, heads=2, context=32))
    before = decoder.held_out_loss(apply, params, DATA)
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
        *_, (step, params) = decoder.train(partial(decoder.loss, apply), params, DATA, steps=100, seed=0)
    after = decoder.held_out_loss(apply, params, DATA)
    shares = np.bincount(DATA["next"][DATA["split"] == 1].ravel()) / DATA["next"][DATA["split"] == 1].size
    by_frequency = -np.sum(shares[shares > 0] * np.log(shares[shares > 0]))
    assert step == 100
    assert after < by_frequency < before
    assert after < 0.6 * before


def test_a_run_may_be_shorter_than_the_warm_up():
    loss, params = observed()
    with jax.numpy_dtype_promotion("standard"):
        assert [step for step, _ in decoder.train(loss, params, DATA, steps=2, seed=0)] == [1, 2]


@pytest.mark.parametrize("options", [{"width": 30, "heads": 4}, {"layers": 0}, {"vocab": -1}])
def test_sizes_that_make_no_decoder_are_refused(options: dict[str, Any]):
    (name, value) = next(iter(options.items()))
    with pytest.raises(ValueError, match=rf"'{name}': {value}.*width a multiple of heads"):
        decoder.build(**options)


def test_more_positions_than_the_model_has_are_refused():
    loss, params = observed(context=16)
    with pytest.raises(ValueError, match=r"32 tokens a sample.*context=16"):
        jax.eval_shape(loss, params, BATCH)


def test_more_text_than_there_is_is_refused():
    with pytest.raises(ValueError, match=r"samples=10000; the text holds 1 to \d+ pieces of 1000 bytes"):
        decoder.load(length=1000, samples=10_000)
    with pytest.raises(ValueError, match="batch_size=2000 is more than the 922 training samples"):
        next(decoder.train(*observed(), DATA, steps=1, batch_size=2000))
