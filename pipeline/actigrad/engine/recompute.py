"""Recompute: a loss whose backward pass computes everything between chosen sites again, instead of keeping it.

    leaner = actigrad.recompute_between(loss, "blocks/*")
    jax.grad(leaner)(params, batch)              # the same numbers, less memory, up to one more forward pass

What `jax.checkpoint` around each of a model's blocks does, without touching the model: the traced program is cut at the
chosen sites, inside scans too, and each piece becomes a `jax.checkpoint` of its own. (One `jax.checkpoint` around the
whole loss, with a policy that keeps the sites, does not do it: its pieces may all be computed again before the first
is needed.) Taps stay where they are, so the result can be captured. Pieces inside `remat`, branches, `while_loop`s,
custom rules and meshes are left as they are.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax
from jax.extend.core import JaxprEqn, Literal

from actigrad.engine.jaxprs import INLINED, Address, parts, scan_layout, sub_jaxprs
from actigrad.engine.program import split_arguments, trace_program
from actigrad.engine.rewrite import bind
from actigrad.sites import choose


def recompute_between(loss: Callable[..., Any], sites: str | Sequence[str]) -> Callable[..., Any]:
    """The same loss, of the same arguments, cut at the sites.

    Args:
        loss: as for `actigrad.capture`.
        sites: patterns of the sites whose values are kept for the backward pass.

    Raises:
        NoSuchSite: when a pattern matches no site (as the result is first traced).
    """

    @functools.wraps(loss)
    def leaner(params, batch, *args, **kwargs):
        static, arrays = split_arguments((params, batch, args, kwargs))
        program = trace_program(loss, static, arrays)
        cuts = {program.taps[site.path].address for site in choose(program.sites, sites)}
        flat = _Cut(frozenset(cuts)).run(program.closed, arrays, ())
        return jax.tree.unflatten(program.out_tree, flat)

    return leaner


@dataclass(frozen=True)
class _Cut:
    """A program run piece by piece, each piece ending at a cut."""

    cuts: frozenset[Address]

    def run(self, closed: Any, inputs: Sequence[Any], address: Address) -> list[Any]:
        jaxpr, consts = parts(closed)
        env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, inputs, strict=True))
        last_use = {var: i for i, eqn in enumerate(jaxpr.eqns) for var in _variables(eqn.invars)}
        last_use |= dict.fromkeys(_variables(jaxpr.outvars), len(jaxpr.eqns))
        piece: list[JaxprEqn] = []

        def close(end: int) -> None:
            given = list(dict.fromkeys(var for eqn in piece for var in _variables(eqn.invars) if var in env))
            made = [var for eqn in piece for var in eqn.outvars if last_use.get(var, -1) >= end]
            evaluate = jax.checkpoint(functools.partial(_evaluate, tuple(piece), given, made))
            env.update(zip(made, evaluate([env[var] for var in given]) if piece else [], strict=True))
            piece.clear()

        for index, eqn in enumerate(jaxpr.eqns):
            here = (*address, index)
            if self.cuts_inside(eqn, here):
                close(index)
                outs = self.enter(eqn, [_read(env, var) for var in eqn.invars], here)
                env.update(zip(eqn.outvars, outs, strict=True))
                continue
            piece.append(eqn)
            if here in self.cuts:
                close(index + 1)
        close(len(jaxpr.eqns))
        return [_read(env, var) for var in jaxpr.outvars]

    def cuts_inside(self, eqn: JaxprEqn, here: Address) -> bool:
        opens = eqn.primitive.name in INLINED or eqn.primitive.name == "scan"
        return opens and any(len(cut) > len(here) and cut[: len(here)] == here for cut in self.cuts)

    def enter(self, eqn: JaxprEqn, inputs: list[Any], here: Address) -> list[Any]:
        body = functools.partial(self.run, sub_jaxprs(eqn)[0], address=(*here, 0))
        if eqn.primitive.name != "scan":
            return body(inputs)
        n_consts, n_carry = scan_layout(eqn)
        consts, carry, xs = inputs[:n_consts], inputs[n_consts : n_consts + n_carry], inputs[n_consts + n_carry :]

        def step(carry, xs):
            outs = body([*consts, *carry, *xs])
            return outs[:n_carry], outs[n_carry:]

        options = {key: eqn.params[key] for key in ("length", "reverse", "unroll")}
        carry, ys = lax.scan(step, carry, xs, **options)
        return [*carry, *ys]


def _evaluate(eqns: tuple[JaxprEqn, ...], given: list[Any], made: list[Any], values: list[Any]) -> list[Any]:
    env = dict(zip(given, values, strict=True))
    for eqn in eqns:
        with eqn.ctx.manager:
            env.update(zip(eqn.outvars, bind(eqn, [_read(env, var) for var in eqn.invars]), strict=True))
    return [env[var] for var in made]


def _variables(atoms: Sequence[Any]) -> Iterator[Any]:
    return (atom for atom in atoms if not isinstance(atom, Literal))


def _read(env: dict[Any, Any], atom: Any) -> Any:
    return atom.val if isinstance(atom, Literal) else env[atom]
