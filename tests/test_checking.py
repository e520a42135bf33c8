"""check: true of a right model, and red where a gradient is wrong."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import actigrad
from actigrad.engine import checking

RNG = np.random.default_rng(0)
PARAMS = {
    "w": jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32),
    "v": jnp.asarray(RNG.normal(size=(6, 6)), jnp.float32),
}
BATCH = {"x": jnp.asarray(RNG.normal(size=(8, 4)), jnp.float32), "label": jnp.arange(8)}


def loss(params, batch):
    stem = actigrad.tap(jax.nn.relu(batch["x"] @ params["w"]), "stem")

    def body(x, _):
        return x + actigrad.tap(jnp.tanh(x @ params["v"]), "block"), None

    x, _ = jax.lax.scan(jax.checkpoint(body), stem, length=3)
    x = actigrad.tap(x, "trunk")
    return jnp.mean(jnp.square(actigrad.tap(x @ params["v"], "out")), axis=1)


def questions(report, where):
    return {verdict.question: verdict.ok for verdict in report.verdicts if verdict.where == where}


def test_a_right_model_passes_every_question_at_every_site():
    report = actigrad.check(loss, PARAMS, BATCH)
    assert report.ok
    assert questions(report, "stem") == {"forward": True, "nudge": True, "cut": True}
    assert questions(report, "block") == {"forward": True, "nudge": True}  # in a loop: part of no cut
    assert questions(report, "trunk") == questions(report, "out") == {"forward": True, "nudge": True, "cut": True}


def test_a_residual_way_around_a_site_makes_it_no_cut_alone():
    def residual(params, batch):
        x = actigrad.tap(batch["x"] * 2, "stem")
        return jnp.sum(actigrad.tap(x + actigrad.tap(jnp.sin(x), "side"), "sum") ** 2)

    cuts = [verdict.where for verdict in actigrad.check(residual, {}, BATCH).verdicts if verdict.question == "cut"]
    assert cuts == ["stem", "sum"]


def test_two_sites_side_by_side_are_a_cut_together():
    def forked(params, batch):
        a, b = actigrad.tap(jnp.sin(batch["x"]), "a"), actigrad.tap(jnp.cos(batch["x"]), "b")
        return jnp.sum(actigrad.tap(a * b, "product") ** 2)

    cuts = [verdict.where for verdict in actigrad.check(forked, {}, BATCH).verdicts if verdict.question == "cut"]
    assert cuts == ["a + b", "product"]


def test_a_wrong_derivative_in_the_model_is_found_by_the_nudge():
    @jax.custom_jvp
    def square(x):
        return x**2

    square.defjvp(lambda primals, tangents: (primals[0] ** 2, 3 * primals[0] * tangents[0]))  # 3x is not 2x
    wrong = lambda params, batch: jnp.sum(square(actigrad.tap(batch["x"] * 2, "x")))
    report = actigrad.check(wrong, {}, BATCH)
    assert not report.ok
    assert questions(report, "x") == {"forward": True, "nudge": False, "cut": True}


def test_a_wrong_captured_gradient_is_found_by_forward_mode_and_the_cut(monkeypatch):
    capture = actigrad.capture

    def lying(*args, **kwargs):
        def captured(*arrays):
            frame = capture(*args, **kwargs)(*arrays)
            frame.gradients["stem"] = frame.gradients["stem"] * 1.01
            return frame

        return captured

    monkeypatch.setattr(checking, "capture", lying)
    assert questions(actigrad.check(loss, PARAMS, BATCH), "stem") == {"forward": False, "nudge": True, "cut": False}


@pytest.mark.parametrize(("what", "where"), [("loss", "loss"), ("parameter_gradients", "parameter gradients")])
def test_an_output_that_is_not_that_of_the_plain_call_is_found(what, where, monkeypatch):
    def lying(*args, **kwargs):
        def captured(*arrays):
            frame = capture(*args, **kwargs)(*arrays)
            return replace(frame, **{what: jax.tree.map(lambda leaf: leaf * 1.01, getattr(frame, what))})

        return captured

    capture = actigrad.capture
    monkeypatch.setattr(checking, "capture", lying)
    report = actigrad.check(loss, PARAMS, BATCH)
    assert [verdict.where for verdict in report.verdicts if verdict.ok is False] == [where]


def test_only_the_sites_that_are_asked_for_are_checked_along_directions_of_the_seed():
    reports = [actigrad.check(loss, PARAMS, BATCH, sites="trunk", seed=seed) for seed in (0, 0, 1)]
    assert {verdict.where for verdict in reports[0].verdicts} == {"loss", "parameter gradients", "trunk"}
    found = [[v.found for v in report.verdicts if v.question in ("forward", "cut")] for report in reports]
    assert found[0] == found[1]
    assert not set(found[0]) & set(found[2])


def test_a_branch_is_part_of_no_cut():
    def branched(params, batch):
        x = actigrad.tap(jnp.sin(batch["x"]), "stem")
        yes, no = (lambda x: actigrad.tap(x * 2, "yes")), (lambda x: actigrad.tap(x * 3, "no"))
        return jnp.sum(actigrad.tap(jax.lax.cond(batch["label"][0] > 0, yes, no, x), "end") ** 2)

    verdicts = actigrad.check(branched, {}, BATCH).verdicts
    assert [verdict.where for verdict in verdicts if verdict.question == "cut"] == ["stem", "end"]


def test_a_kink_is_no_mistake():
    def kinked(params, batch):  # three times as steep to the right of where it stands as to the left
        away = actigrad.tap(batch["x"], "x") - batch["x"]
        return jnp.sum(jnp.where(away >= 0, 3 * away, away))

    report = actigrad.check(kinked, {}, BATCH)
    assert questions(report, "x")["nudge"] is None
    assert "kink" in next(v.note for v in report.verdicts if v.question == "nudge")


def test_sites_without_a_gradient_and_unreached_ones_are_listed():
    def partly(params, batch):
        x = actigrad.tap(batch["x"] * 2, "x")
        actigrad.tap(jnp.argmax(x, axis=1), "which")
        actigrad.tap(x * 3, "deadend")
        return jnp.sum(x**2)

    report = actigrad.check(partly, {}, BATCH)
    assert set(report.missing) == {"which"}
    assert "deadend" in report.unreached
    assert report.ok


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_a_loss_that_is_not_finite_gives_no_false_alarm_about_capture(value):
    report = actigrad.check(lambda params, batch: jnp.sum(actigrad.tap(batch["x"], "x") * value), {}, BATCH)
    assert report.ok


def test_the_plain_call_gets_traced_arrays_where_numpy_was_given():
    def strict(params, batch):
        assert isinstance(batch["x"], jax.Array)
        return loss(params, batch)

    assert actigrad.check(strict, PARAMS, {"x": np.asarray(BATCH["x"])}).ok
