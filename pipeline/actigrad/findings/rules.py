"""Rules: from numbers to sentences. A rule's docstring tells when it speaks; its `fine` is said when it has nothing."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from actigrad.findings.measures import Record

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
MANY_DEAD, SOME_DEAD = 0.5, 0.05
DECADES = 3
CHANGE = 10
SPIKE = 10
UPDATE = (1e-6, 0.1)
HARD = 0.5


@dataclass(frozen=True)
class Finding:
    """A rule's verdict.

    Attributes:
        rule: the name of the rule.
        site: the path of the site or the parameter, or "" where it is of the run.
        step: at which step, or None where it is of all.
        severity: error (numbers are broken), warning (training is likely to suffer), note (worth knowing).
        text: one sentence with its numbers.
        evidence: the numbers that it rests on, by name.
    """

    rule: str
    site: str
    step: int | None
    severity: Severity
    text: str
    evidence: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Rule:
    """One thing to look for.

    Attributes:
        name: in a word or two.
        fine: what holds when the rule finds nothing.
        find: from a record to findings, the most telling first.
        looked: whether the record has what the rule looks at; of what it has not, nothing holds.
    """

    name: str
    fine: str
    find: Callable[[Record], Iterator[Finding]]
    looked: Callable[[Record], bool] = lambda record: True


def judge(record: Record) -> tuple[Finding, ...]:
    """All findings, the gravest first; within one severity in the order of the rules."""
    found = [finding for rule in RULES for finding in rule.find(record)]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def in_order(record: Record, findings: tuple[Finding, ...]) -> list[str]:
    """What holds, of the rules that looked and found nothing."""
    spoke = {finding.rule for finding in findings}
    return [rule.fine for rule in RULES if rule.name not in spoke and rule.looked(record)]


def find_not_finite(record: Record) -> Iterator[Finding]:
    """NaN or infinities: the first step that has any, and where they come from there.

    Activations go forward and gradients backward, so the origin is the first site of the one and the last of the other.
    """
    for quantity, order in (("activation", record.sites), ("gradient", record.sites[::-1])):
        counts = [(site, numbers.nonfinite) for site in order if (numbers := site.get(quantity))]
        total = np.sum([count for _, count in counts], axis=0) if counts else np.zeros(1)
        if not total.any():
            continue
        at = int(np.flatnonzero(total)[0])
        origin, count = next((site, count[at]) for site, count in counts if count[at])
        reached = sum(bool(count.any()) for _, count in counts)
        text = (
            f"{quantity}: {count:,.0f} values are not finite at step {record.steps[at]}, the first such step; "
            f"{'the sites after it follow' if quantity == 'activation' else 'it is the last such site'}"
            f" ({_sites(reached)} in all)."
        )
        yield Finding("not finite", origin.path, record.steps[at], "error", text, {"nonfinite": float(count)})


def find_no_gradient(record: Record) -> Iterator[Finding]:
    """A gradient of exactly zero at every neuron and step: nothing upstream learns through this site."""
    for site in record.sites:
        numbers = site.get("gradient")
        if numbers and not numbers.nonfinite.any() and (numbers.dead == 1).all():
            text = "the gradient is exactly zero at every neuron and recorded step: the loss does not depend on it."
            yield Finding("no gradient", site.path, None, "warning", text, {"gradient_dead": 1.0})


def find_dead(record: Record) -> Iterator[Finding]:
    """Neurons that are zero for every sample at the last step: from 5 % of a site a note, from half of it a warning."""
    dead = [(numbers.dead[-1], site.path) for site in record.sites if (numbers := site.get("activation"))]
    for share, path in sorted(dead, reverse=True):
        if share >= SOME_DEAD:
            text = f"{share:.0%} of the neurons are dead: zero for every sample at the last step."
            severity = "warning" if share >= MANY_DEAD else "note"
            yield Finding("dead", path, record.steps[-1], severity, text, {"dead": float(share)})


def find_constant(record: Record) -> Iterator[Finding]:
    """Neurons stuck at one value other than zero for every sample at the last step, from 5 % of a site."""
    for site in record.sites:
        numbers = site.get("activation")
        if numbers and (share := float(numbers.constant[-1])) >= SOME_DEAD:
            text = f"{share:.0%} of the neurons have one and the same value other than zero for every sample."
            yield Finding("constant", site.path, record.steps[-1], "note", text, {"constant": share})


def find_vanishing(record: Record) -> Iterator[Finding]:
    """The gradient at the last step changes by a factor of 1,000 or more between the deepest and the first site."""
    slopes = [(site.path, numbers.rms[-1]) for site in record.sites if (numbers := site.get("gradient"))]
    slopes = [(path, rms) for path, rms in slopes if np.isfinite(rms) and rms > 0]
    if len(slopes) < 2:
        return
    (first, start), (last, end) = slopes[0], slopes[-1]
    ratio = start / end
    if ratio <= 10**-DECADES or ratio >= 10**DECADES:
        what = "vanishes" if ratio < 1 else "explodes"
        text = (
            f"the gradient {what} on its way back: rms {end:.2g} at {last}, {start:.2g} here, a factor of "
            f"{max(ratio, 1 / ratio):,.0f}."
        )
        yield Finding("vanishing", first, record.steps[-1], "warning", text, {"ratio": float(ratio)})


def find_changing(record: Record) -> Iterator[Finding]:
    """The size of a site's activation changes tenfold or more between the first and the last recorded step."""
    found = []
    for site in record.sites:
        if numbers := site.get("activation"):
            first, last = numbers.rms[0], numbers.rms[-1]
            if first > 0 and last > 0 and max(last / first, first / last) >= CHANGE:
                found.append((max(last / first, first / last), first, last, site.path))
    for factor, first, last, path in sorted(found, reverse=True):
        verb = "grows" if last > first else "shrinks"
        text = f"the activation {verb} {factor:,.0f} times: rms {first:.2g} to {last:.2g}."
        yield Finding("changing", path, record.steps[-1], "note", text, {"factor": float(last / first)})


def find_spikes(record: Record) -> Iterator[Finding]:
    """A step at which the gradient of some site is ten times its own median over the steps; of five steps or more."""
    if len(record.steps) < 5:
        return
    worst: dict[int, tuple[float, str]] = {}
    for site in record.sites:
        numbers = site.get("gradient")
        if numbers and (middle := np.nanmedian(numbers.rms)) > 0:
            for at in np.flatnonzero(numbers.rms >= SPIKE * middle):
                worst[int(at)] = max(worst.get(int(at), (0.0, "")), (float(numbers.rms[at] / middle), site.path))
    for at, (factor, path) in sorted(worst.items(), key=lambda item: -item[1][0]):
        text = f"the gradient jumps to {factor:,.0f} times its median at step {record.steps[at]}."
        yield Finding("spikes", path, record.steps[at], "note", text, {"factor": factor})


def find_updates(record: Record) -> Iterator[Finding]:
    """A parameter that no recorded update moves, or whose usual one is below 1e-6 or above a tenth of its size."""
    for parameter in record.parameters:
        value, update = parameter.get("value"), parameter.get("update")
        if not (value and update and (value.rms > 0).all() and np.isfinite(update.rms).all()):
            continue
        ratio = float(np.median(update.rms / value.rms))
        evidence = {"update_to_value": ratio}
        if (update.dead == 1).all():
            yield Finding("updates", parameter.path, None, "note", "no recorded update moves this parameter.", evidence)
        elif 0 < ratio < UPDATE[0] or ratio > UPDATE[1]:
            text = f"an update is {ratio:.1e} of the parameter's size (median over the steps); 1e-3 or so is usual."
            yield Finding("updates", parameter.path, None, "note", text, evidence)


def find_loss(record: Record) -> Iterator[Finding]:
    """The mean loss rises by half above its minimum, or one sample in a hundred carries half of it."""
    best = int(np.nanargmin(record.loss)) if np.isfinite(record.loss).any() else 0
    low, last = record.loss[best], record.loss[-1]
    if low > 0 and last > 1.5 * low:
        text = f"the mean loss ends at {last:.3g}, {last / low:.1f} times its minimum at step {record.steps[best]}."
        yield Finding("loss", "", record.steps[-1], "warning", text, {"loss": float(last), "minimum": float(low)})
    losses = np.sort(record.losses)[::-1]
    top, total = max(1, len(losses) // 100), losses.sum()
    if total > 0 and len(losses) >= 100 and (share := losses[:top].sum() / total) >= HARD:
        text = f"the hardest 1 % of the samples ({top}) carry {share:.0%} of the loss at the last step."
        yield Finding("loss", "", record.steps[-1], "note", text, {"share": float(share)})


def find_missing(record: Record) -> Iterator[Finding]:
    """Sites whose gradient could not be captured, and why."""
    for site in record.sites:
        if site.site and site.site.missing:
            yield Finding(
                "missing", site.path, None, "note", f"its gradient could not be captured: {site.site.missing}."
            )


def _has_gradients(record: Record) -> bool:
    return any(site.get("gradient") for site in record.sites)


def _has_steps(record: Record) -> bool:
    return len(record.steps) > 1


def _has_both(record: Record) -> bool:
    return _has_gradients(record) and _has_steps(record)


def _has_updates(record: Record) -> bool:
    return any(parameter.get("update") for parameter in record.parameters)


def _sites(count: int) -> str:
    return f"{count} site{'s' * (count != 1)}"


RULES = (
    Rule("not finite", "every value of every site at every step looked at is finite", find_not_finite),
    Rule("no gradient", "a gradient reaches every site", find_no_gradient, _has_gradients),
    Rule(
        "vanishing",
        "the gradient neither vanishes nor explodes between the last site and the first",
        find_vanishing,
        _has_gradients,
    ),
    Rule("dead", "fewer than 5 % of any site's neurons are dead", find_dead),
    Rule("constant", "fewer than 5 % of any site's neurons are stuck at one value other than zero", find_constant),
    Rule("loss", "the loss ends near its minimum, and no few samples carry it", find_loss),
    Rule("changing", "no site's activation changes its size tenfold", find_changing, _has_steps),
    Rule(
        "spikes",
        "no step has a gradient ten times the usual",
        find_spikes,
        lambda record: _has_gradients(record) and _has_steps(record),
    ),
    Rule("updates", "every parameter moves, by less than a tenth of its size", find_updates, _has_updates),
    Rule("missing", "every gradient that was asked for was captured", find_missing),
)  # fmt: skip
"""In the order in which a person asks."""
