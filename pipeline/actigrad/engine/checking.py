"""Check: is what capture says of *this* model true? Verified without a reference.

    report = actigrad.check(loss, params, batch)
    report.ok, [verdict for verdict in report.verdicts if verdict.ok is False]

Four questions, each with other mathematics than the reverse pass that capture uses:

- *outputs*: the loss and the parameter gradients are those of the plain, uncaptured call, bit for bit or close;
- *forward*: at each site, along a random direction v, <gradient, v> equals the loss' forward-mode derivative;
- *nudge*: at each site the loss really changes as its gradient says, by central differences of the perturbed program;
- *cut*: wherever a set of sites separates the batch from the loss, sum of <gradient, tangent> over the set equals the
  derivative of the loss along a random direction of the batch.

Sites without a gradient, and those that no derivative reaches, are listed. Cost: about three passes a site.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actigrad.engine.flow import LOSS
from actigrad.engine.program import Program, Static, split_arguments, sum_losses, trace_program
from actigrad.engine.rewrite import Rewriter
from actigrad.engine.transform import Frame, Patterns, capture
from actigrad.sites import Site, choose

CLOSE = 1e-3
NUDGE_CLOSE = 5e-2


@dataclass(frozen=True)
class Verdict:
    """One thing that was checked.

    Attributes:
        question: outputs, forward, nudge or cut.
        where: a site, or the sites of a cut.
        ok: True, False, or None where the arithmetic could not tell.
        found, expected: the two numbers that should agree.
        note: how they were compared, or why there is no answer.
    """

    question: str
    where: str
    ok: bool | None
    found: float
    expected: float
    note: str = ""


@dataclass(frozen=True)
class Report:
    """All verdicts; `ok` when none is False.

    Attributes:
        verdicts: one for each thing checked.
        missing: sites without a gradient, with the reason.
        unreached: sites from which no derivative reaches the loss.
    """

    verdicts: tuple[Verdict, ...]
    missing: dict[str, str]
    unreached: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found wrong."""
        return all(verdict.ok is not False for verdict in self.verdicts)


def check(loss: Callable[..., Any], params: Any, batch: Any, *, sites: Patterns = "**", seed: int = 0) -> Report:
    """Verify capture on a model.

    Cost: one capture, and a few forward passes a site, so that a hundred sites take hundreds of times the loss; the
    memory of all activations and gradients of the batch.

    Args:
        loss: as for `capture`.
        params: as for `capture`.
        batch: as for `capture`; few samples are enough.
        sites: patterns of the sites to check.
        seed: of the random directions.
    """
    static, arrays = split_arguments((params, batch, (), {}))
    program = trace_program(loss, static, arrays)
    frame = capture(loss, sites=sites)(params, batch)
    chosen = [site for site in choose(program.sites, sites) if site.path in frame.gradients]
    nudged = jax.jit(partial(_nudged, program), static_argnums=0)
    directions = {site.path: _direction(frame.activations[site.path], seed + i) for i, site in enumerate(chosen)}
    verdicts = [*_outputs(loss, static, arrays, frame)]
    for site in chosen:
        verdicts += _at_site(nudged, site, arrays, frame, directions[site.path])
    verdicts += _cuts(program, arrays, frame, seed)
    missing = {path: reason for (path, quantity), reason in frame.missing.items() if quantity == "gradient"}
    return Report(tuple(verdicts), missing, frame.unreached)


def _outputs(loss: Callable[..., Any], static: Static, arrays: list[Any], frame: Frame) -> Iterator[Verdict]:
    """Against the plain call."""

    def total(floating, arrays):
        params, batch, *_ = static.merge([floating.get(i, x) for i, x in enumerate(arrays)])
        out = loss(params, batch)
        return sum_losses(out[0] if isinstance(out, tuple) else out)

    floating = {i: arrays[i] for i in range(static.n_params) if _is_floating(arrays[i])}
    value, gradients = jax.jit(jax.value_and_grad(total))(floating, arrays)
    yield _verdict("outputs", "loss", float(frame.loss), float(value), CLOSE)
    captured = [leaf for leaf in jax.tree.leaves(frame.parameter_gradients) if _is_floating(leaf)]
    for found, expected in zip(captured, gradients.values(), strict=True):
        worst = float(np.max(np.abs(_wide(found) - _wide(expected)), initial=0))
        size = float(np.max(np.abs(_wide(expected)), initial=0))
        if not worst <= CLOSE * size:
            yield Verdict(
                "outputs", "parameter gradients", False, worst, 0.0, f"largest difference; largest gradient {size:.3g}"
            )
            return
    if captured:
        yield Verdict(
            "outputs", "parameter gradients", True, 0.0, 0.0, f"{len(captured)} arrays agree with the plain call"
        )


def _at_site(nudged: Any, site: Site, arrays: list[Any], frame: Frame, direction: jax.Array) -> Iterator[Verdict]:
    """Forward mode, and central differences, along one direction."""
    along = lambda t: nudged(site.path, arrays, t * direction)
    claimed = _inner(frame.gradients[site.path], direction)
    zero, one = jnp.zeros((), jnp.float32), jnp.ones((), jnp.float32)
    scale = float(np.linalg.norm(_wide(frame.gradients[site.path])) * np.linalg.norm(_wide(direction)))
    yield _verdict("forward", site.path, claimed, float(jax.jvp(along, (zero,), (one,))[1]), CLOSE, scale=scale)
    # Along the gradient itself the slope stands out of the round-off; along a random direction it seldom does. Exact
    # zeros stay: behind a ReLU they are where maxima tie, and there a difference sees another branch than the gradient.
    activation = _wide(frame.activations[site.path])
    gradient = np.where(activation != 0, _wide(frame.gradients[site.path]), 0)
    if not (np.isfinite(gradient).all() and np.isfinite(activation).all()):
        yield Verdict("nudge", site.path, None, np.nan, np.nan, "not everything here is finite")
        return
    size = float(np.sqrt(np.mean(np.square(activation))))
    steepest = jnp.asarray(gradient / (np.sqrt(np.mean(np.square(gradient))) or 1.0) * (size or 1.0), jnp.float32)
    yield _nudge(lambda t: nudged(site.path, arrays, t * steepest), site, _inner(gradient, steepest))


def _nudge(along: Any, site: Site, claimed: float) -> Verdict:
    """Central differences at several steps: the best agreement counts, as round-off and curvature pull apart.

    Where the slopes to the left and to the right differ the loss has a kink (a ReLU at zero, a tie in a maximum); any
    gradient between the two is right then.
    """
    at_zero = float(along(jnp.float32(0)))
    steps = [10.0**-k for k in range(1, 5)]
    sides = [
        ((at_zero - float(along(jnp.float32(-h)))) / h, (float(along(jnp.float32(h))) - at_zero) / h) for h in steps
    ]
    best = min((sum(pair) / 2 for pair in sides), key=lambda value: abs(value - claimed))
    if not np.isfinite(best) or abs(claimed) < 4 * np.finfo(np.float32).eps * abs(at_zero) / steps[0]:
        return Verdict("nudge", site.path, None, best, claimed, "the slope is below what float32 resolves")
    verdict = _verdict("nudge", site.path, best, claimed, NUDGE_CLOSE)
    if verdict.ok is False:
        room = NUDGE_CLOSE * abs(claimed)
        around = [pair for pair in sides if min(pair) - room <= claimed <= max(pair) + room]
        if around:
            left, right = around[-1]
            note = f"the loss has a kink here: its slopes to the left and right are {left:.3g} and {right:.3g}"
            return Verdict("nudge", site.path, None, best, claimed, note)
    return verdict


def _cuts(program: Program, arrays: list[Any], frame: Frame, seed: int) -> Iterator[Verdict]:
    """Every cut, along one random direction of the batch."""
    n_batch, n_data = program.batch.start, program.batch.stop
    moving = {i: _direction(arrays[i], seed + i) for i in range(n_batch, n_data) if _is_floating(arrays[i])}
    cuts = [*separating_cuts(program, frame)]
    if not moving or not cuts:
        return
    taps = {program.taps[path].address: path for cut in cuts for path in cut}
    rewriter = Rewriter({address: program.taps[path] for address, path in taps.items()}, lambda tap, x, probe: (x, x))

    def along(t):
        moved = [x + (t * moving[i]).astype(x.dtype) if i in moving else x for i, x in enumerate(arrays)]
        flat, opened = rewriter.run(program.closed, moved, {})
        return sum_losses(program.outputs(flat)[0]), {taps[address]: one.value for address, one in opened.items()}

    zero, one = jnp.zeros((), jnp.float32), jnp.ones((), jnp.float32)
    _, (slope, tangents) = jax.jit(lambda: jax.jvp(along, (zero,), (one,)))()
    parts = {path: _inner(frame.gradients[path], tangent) for path, tangent in tangents.items()}
    for cut in cuts:
        scale = sum(float(np.linalg.norm(_wide(frame.gradients[p])) * np.linalg.norm(_wide(tangents[p]))) for p in cut)
        yield _verdict("cut", " + ".join(cut), sum(parts[path] for path in cut), float(slope), CLOSE, scale=scale)


def separating_cuts(program: Program, frame: Frame) -> Iterator[tuple[str, ...]]:
    """Sets of sites such that every way from the batch to the loss passes exactly one of them.

    Sites in loops and branches are in none: what passes them once an iteration is counted more than once.
    """
    order = [site.path for site in program.sites]
    known = {path for path in frame.gradients if not program.taps[path].front and not program.taps[path].visitable}
    place = {path: i for i, path in enumerate(order)} | {LOSS: len(order)}
    below = _descendants(order, program.flow.feeds)
    seen: set[tuple[str, ...]] = set()
    for end in range(1, len(order) + 1):
        if any(place[path] >= end for path in program.flow.entries):
            continue  # the batch itself feeds past this cut
        cut = tuple(path for path in order[:end] if any(place[target] >= end for target in program.flow.feeds[path]))
        if cut and cut not in seen and set(cut) <= known and not any(below[path] & set(cut) for path in cut):
            seen.add(cut)
            yield cut


def _descendants(order: list[str], feeds: dict[str, tuple[str, ...]]) -> dict[str, set[str]]:
    below: dict[str, set[str]] = {LOSS: set()}
    for path in reversed(order):
        below[path] = set(feeds[path]).union(*(below[target] for target in feeds[path]))
    return below


def _nudged(program: Program, path: str, arrays: list[Any], nudge: jax.Array) -> jax.Array:
    """The loss of the program with `nudge` added at one site."""
    tap = program.taps[path]
    rewriter = Rewriter({tap.address: tap}, lambda _, x, probe: (x + probe.astype(x.dtype), None))
    flat, _ = rewriter.run(program.closed, arrays, {tap.address: nudge})
    return sum_losses(program.outputs(flat)[0])


def _direction(like: Any, seed: int) -> jax.Array:
    """A random direction of about the array's own size, so that a step of one is a step that matters."""
    scale = float(np.sqrt(np.mean(np.square(_wide(like))))) or 1.0
    values = np.random.default_rng(seed).normal(size=np.shape(like)) * (scale if np.isfinite(scale) else 1.0)
    return jnp.asarray(values, jnp.float32)


def _wide(x: Any) -> np.ndarray:
    return np.asarray(x).astype(np.float64)


def _inner(a: Any, b: Any) -> float:
    with np.errstate(invalid="ignore"):  # inf - inf is a NaN that both sides of a comparison share
        return float(np.sum(_wide(a) * _wide(b)))


def _is_floating(x: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(x), jnp.floating))


def _verdict(question: str, where: str, found: float, expected: float, close: float, *, scale: float = 0.0) -> Verdict:
    """Agreement relative to the larger of the numbers, or to the size of the sum that they are the remainder of."""
    both_odd = not np.isfinite(found) and str(found) == str(expected)
    size = max(abs(found), abs(expected), 1e-2 * scale, 1e-30)
    apart = abs(found - expected) / size
    return Verdict(
        question, where, both_odd or bool(apart <= close), found, expected, f"relative difference {apart:.1e}"
    )
