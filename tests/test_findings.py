"""Findings: each rule speaks when it should, with its numbers, and is silent otherwise; measures are those stored."""

from dataclasses import replace

import numpy as np
import pytest

from actigrad.findings import RULES, Finding, Measures, Numbers, Record, in_order, judge, measure, split_samples
from actigrad.findings.measures import choose_steps
from actigrad.findings.rules import find_dead, find_not_finite
from actigrad.metrics import METRICS
from actigrad.sites import Site
from actigrad.storage.store import open_store, read_samples

STEPS = (10, 20, 30, 40, 50)


def numbers(**changed):
    flat = lambda value: np.full(len(STEPS), float(value))
    plain = {"rms": 1, "low": -2, "high": 2, "zeros": 0, "dead": 0, "constant": 0, "nonfinite": 0}
    return Numbers(**{name: flat(value) for name, value in plain.items()} | changed)


def record(sites=(), parameters=(), loss=(5, 4, 3, 2, 1), losses=None):
    losses = np.ones(200) if losses is None else losses
    return Record(STEPS, tuple(sites), tuple(parameters), np.asarray(loss, float), losses)


def site(path, activation=None, gradient=None, missing=""):
    values = {"activation": activation or numbers(), "gradient": gradient or numbers()}
    return Measures(path, values, Site(path, (4, 8), "float32", ("sample", "neuron"), missing=missing))


def parameter(ratio):
    return Measures("w", {"value": numbers(rms=np.full(5, 2.0)), "update": numbers(rms=np.full(5, 2.0 * ratio))})


def found(given, rule):
    return [finding for finding in judge(given) if finding.rule == rule]


def test_where_nothing_is_wrong_every_rule_says_what_holds():
    given = record([site("a"), site("b")], [parameter(1e-3)])
    assert judge(given) == ()
    assert in_order(given, judge(given)) == [rule.fine for rule in RULES]


def test_of_what_a_store_does_not_hold_nothing_is_said_to_hold():
    given = record([Measures("a", {"activation": numbers()}, Site("a", (4, 8), "float32", ("sample", "neuron")))], [])
    told = " ".join(in_order(given, judge(given)))
    assert "dead" in told
    assert "gradient reaches" not in told
    assert "parameter moves" not in told


def test_what_is_not_finite_is_traced_to_its_first_step_and_site():
    late = np.array([0, 0, 7, 9, 9.0])
    given = record([site("a"), site("b", numbers(nonfinite=late)), site("c", numbers(nonfinite=late * 2))])
    (finding,) = found(given, "not finite")
    assert (finding.site, finding.step, finding.severity, finding.evidence) == ("b", 30, "error", {"nonfinite": 7.0})
    assert "7 values are not finite at step 30" in finding.text
    assert "2 sites in all" in finding.text
    assert judge(given)[0] is not None
    assert judge(given)[0].severity == "error", "the gravest first"


def test_a_broken_gradient_is_traced_to_the_last_site_where_it_starts():
    broken = numbers(nonfinite=np.array([0, 0, 0, 0, 3.0]))
    given = record([site("a", gradient=broken), site("b", gradient=broken), site("c")])
    (finding,) = found(given, "not finite")
    assert (finding.site, finding.step) == ("b", 50)
    assert finding.text.startswith("gradient")


@pytest.mark.parametrize(("share", "severity"), [(0.04, None), (0.05, "note"), (0.49, "note"), (0.5, "warning")])
def test_dead_neurons_are_a_note_from_a_twentieth_and_a_warning_from_half(share, severity):
    given = record([site("a", numbers(dead=np.array([1, 1, 1, 1, share])))])
    assert [finding.severity for finding in found(given, "dead")] == ([severity] if severity else [])


@pytest.mark.parametrize(("start", "what"), [(1e-3, "vanishes"), (1e3, "explodes"), (1.1e-3, None), (900.0, None)])
def test_the_gradient_vanishes_or_explodes_from_three_decades_on(start, what):
    given = record([site("a", gradient=numbers(rms=np.full(5, start))), site("b")])
    texts = [finding.text for finding in found(given, "vanishing")]
    assert len(texts) == (what is not None)
    assert all(f"{what} on its way back: rms 1 at b" in text and "factor of 1,000" in text for text in texts)


def test_a_site_that_the_loss_does_not_depend_on_is_told():
    assert [
        f.site for f in found(record([site("a", gradient=numbers(dead=np.ones(5))), site("b")]), "no gradient")
    ] == ["a"]
    some = numbers(dead=np.array([1, 1, 1, 1, 0.9]))
    assert found(record([site("a", gradient=some)]), "no gradient") == []


def test_growth_spikes_and_constants_are_told_with_their_factors():
    grown, jump = numbers(rms=np.array([1, 2, 4, 8, 16.0])), numbers(rms=np.array([1, 1, 50, 1, 1.0]))
    given = record([site("a", grown), site("b", gradient=jump), site("c", numbers(constant=np.full(5, 0.25)))])
    assert "grows 16 times: rms 1 to 16" in found(given, "changing")[0].text
    (spike,) = found(given, "spikes")
    assert (spike.site, spike.step, spike.evidence) == ("b", 30, {"factor": 50.0})
    assert "25% of the neurons" in found(given, "constant")[0].text


@pytest.mark.parametrize(("ratio", "told"), [(1e-7, "1.0e-07"), (1e-3, None), (0.5, "5.0e-01")])
def test_updates_far_from_the_usual_size_are_told(ratio, told):
    texts = [finding.text for finding in found(record(parameters=[parameter(ratio)]), "updates")]
    assert [told in text for text in texts] == ([True] if told else [])


def test_a_parameter_that_never_moves_is_told():
    still = Measures("w", {"value": numbers(), "update": numbers(rms=np.zeros(5), dead=np.ones(5))})
    assert "no recorded update" in found(record(parameters=[still]), "updates")[0].text


def test_a_loss_that_rises_and_samples_that_carry_it_are_told():
    heavy = np.r_[np.full(2, 100.0), np.full(198, 0.1)]
    rises, carried = found(record(loss=[4, 2, 1, 2, 3], losses=heavy), "loss")
    assert "ends at 3, 3.0 times its minimum at step 30" in rises.text
    assert "hardest 1 % of the samples (2) carry 91%" in carried.text


def test_a_gradient_that_could_not_be_captured_tells_why():
    (finding,) = found(record([site("a", missing="its dtype is int32")]), "missing")
    assert "its dtype is int32" in finding.text


def test_every_rule_says_when_it_speaks_and_findings_do_not_change():
    assert all(rule.find.__doc__ and rule.fine for rule in RULES)
    assert len({rule.name for rule in RULES}) == len(RULES)
    with pytest.raises(AttributeError):
        Finding("dead", "a", 1, "note", "").site = "b"


def test_measures_are_those_of_the_stored_summaries(digits_store):
    tree = open_store(digits_store)
    told = []
    measured = measure(tree, lambda done, total: told.append((done, total)))
    stored = tree["sites/head/relu/summary"]["activation"].values
    of = {name: stored[:, i] for i, name in enumerate(METRICS)}
    relu = next(one for one in measured.sites if one.path == "head/relu").get("activation")
    np.testing.assert_allclose(relu.rms, np.median(of["rms"], 1))
    np.testing.assert_allclose(relu.dead, (of["zero_fraction"] == 1).mean(1))
    np.testing.assert_array_equal((relu.low, relu.high), (of["min"].min(1), of["max"].max(1)))
    assert measured.steps == (2, 4)
    assert [one.path for one in measured.sites] == list(tree.attrs["sites"])
    assert "head/hidden/kernel" in [one.path for one in measured.parameters]
    np.testing.assert_allclose(measured.loss, read_samples(tree)["loss"].values.mean(1), rtol=1e-6)
    assert told[-1][0] == told[-1][1] == len(told)


def test_reading_a_few_steps_at_a_time_changes_nothing(digits_store, monkeypatch):
    whole = measure(open_store(digits_store))
    monkeypatch.setattr("actigrad.findings.measures.READ_BYTES", 1)
    for a, b in zip(whole.sites, measure(open_store(digits_store)).sites, strict=True):
        for quantity, values in a.numbers.items():
            for name in vars(values):
                np.testing.assert_array_equal(getattr(values, name), getattr(b.get(quantity), name))


def test_of_many_steps_some_are_looked_at_with_the_first_and_the_last():
    at = choose_steps(1000)
    assert (len(at), at[0], at[-1]) == (60, 0, 999)
    assert choose_steps(60).tolist() == list(range(60))


def test_samples_are_split_by_what_they_are(digits_store):
    samples = read_samples(open_store(digits_store))
    names, rows = zip(*split_samples(samples), strict=True)
    assert names == ("train", "held out")
    assert sorted(np.concatenate(rows)) == list(range(64))
    (alone,) = split_samples(samples.drop_vars("split"))
    assert alone[0] == "all samples"


def test_rules_can_be_asked_one_by_one():
    given = record([site("a", numbers(dead=np.ones(5)))])
    assert [finding.rule for finding in find_dead(given)] == ["dead"]
    assert list(find_not_finite(replace(given, sites=()))) == []
