"""Recorder: inside anyone's own training loop, the same store as a run's.

    with actigrad.Recorder("run.zarr", loss, every=100, full="head/*") as record:
        for step, batch in enumerate(batches, start=1):
            params, state = update(params, state, batch)
            record(step, params, batch)

What is recorded is of one fixed *probe* batch, so that what changes over the steps is the model and not the draw of
samples: summaries and histograms of every site's activation and gradient, whole tensors where asked for, and summaries
of the parameters, their gradients and their last update. One jitted call is dispatched; a thread of its own copies,
finishes and writes. At every other step `record` returns after one division.

The first call traces the loss, and raises what is wrong with it before training goes on. After that nothing raises: a
full disk or any other failure turns recording off, with one warning. docs/recorder.md tells what is recorded when,
what it costs, and what happens after a restart.

Limits: one process, a local disk. Capture needs the memory of one more step on the probe (`actigrad.measure_memory`).
"""

import operator
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.core
import jax.numpy as jnp
from pydantic import ValidationError

from actigrad.config.records import (
    CaptureRule,
    Config,
    DataSpec,
    InputSpec,
    ModelSpec,
    OrderName,
    ParameterSpec,
    Patterns,
    PositiveInt,
    Record,
    StoreSpec,
)
from actigrad.engine.flow import LOSS
from actigrad.engine.program import Program, split_arguments, trace_program
from actigrad.errors import CaptureError, ConfigError, Problem, StoreError
from actigrad.runs import probe as probes
from actigrad.runs.job import named_leaves, provenance
from actigrad.runs.measure import Measure
from actigrad.runs.scribe import Moment, Scribe
from actigrad.storage.appender import Appender, create_growing, growing, layout_of
from actigrad.storage.journal import Journal
from actigrad.storage.names import SCHEMA_VERSION
from actigrad.storage.schema import Tensors, make_plans, make_template, work_attrs
from actigrad.storage.store import check_version, is_store
from actigrad.storage.template import Template

NOWHERE = "actigrad.runs.recorder:Recorder"
"""Where a config names a function, and there is none: the loop is someone's own."""


class Asked(Record):
    """What a Recorder was called with; the store's attribute `config`."""

    loss: str
    sites: Patterns
    exclude: Patterns
    full: Patterns
    every: PositiveInt
    parameters: tuple[Literal["value", "gradient", "update"], ...]
    samples: PositiveInt | None
    dtype: Literal["float32", "bfloat16"]
    levels: tuple[OrderName, ...]

    def config(self, path: Path, samples: int) -> Config:
        """The same in the words of a run."""
        rules = [CaptureRule(sites=self.sites, exclude=self.exclude)]
        if self.full:
            rules.append(CaptureRule(sites=self.full, exclude=self.exclude, keep="full", steps="all", dtype=self.dtype))
        kept = ParameterSpec(quantities=self.parameters) if self.parameters else ParameterSpec(keep="none")
        return Config(
            model=ModelSpec(factory=NOWHERE),
            data=DataSpec(factory=NOWHERE, batch_size=samples),
            loss=NOWHERE,
            store=StoreSpec(path=path),
            capture=tuple(rules),
            inputs=InputSpec(keep="none"),
            parameters=kept,
        )


class Recorder:
    """Records a training from inside its loop; a context manager whose value is called with (step, params, batch).

    Args:
        path: the store, a directory. One that a Recorder of the same layout made is continued.
        loss: `loss(params, batch)`, as for `actigrad.capture`.
        sites: patterns of the sites to summarise.
        exclude: patterns of sites to leave out.
        every: record at steps that are multiples of it.
        full: patterns of the sites whose whole activation and gradient are kept as well, at every recorded step.
        parameters: which of `value`, `gradient` (of the probe) and `update` (by the last training update) to summarise.
        probe: the batch that is recorded; by default the first `samples` of the first batch.
        samples: how many those are; by default a quarter of the batch, which costs about half a training step.
        dtype: of whole tensors; bfloat16 takes about half the space.
        levels: orders in which large matrices of neurons get levels as the block ends, for fast pictures of any part of
            them; levels that are there go on with the steps that are new (docs/levels.md).

    Raises:
        ConfigError: when an argument has no sense.
        StoreError: as the context is entered, when something else stands at `path`, or another process writes there.
    """

    def __init__(
        self,
        path: str | Path,
        loss: Callable[..., Any],
        *,
        sites: str | Sequence[str] = "**",
        exclude: str | Sequence[str] = (),
        every: int = 100,
        full: str | Sequence[str] = (),
        parameters: Sequence[str] = ("value", "gradient", "update"),
        probe: Any = None,
        samples: int | None = None,
        dtype: str = "float32",
        levels: str | Sequence[str] = (),
    ):
        self.path, self.loss = Path(path), loss
        name = f"{getattr(loss, '__module__', '')}.{getattr(loss, '__qualname__', type(loss).__qualname__)}"
        self.asked = _checked(
            loss=name, sites=_listed(sites), exclude=_listed(exclude), every=every, full=_listed(full),
            parameters=tuple(parameters), samples=samples, dtype=dtype, levels=_listed(levels),
        )  # fmt: skip
        self._given = probe
        self._journal: Journal | None = None
        self._session: _Session | None = None
        self._off = False
        self._told: set[str] = set()
        self._before: tuple[int, dict[str, jax.Array]] | None = None

    def __enter__(self) -> "Recorder":
        """Lock the store; nothing is written before the first recorded step."""
        there = self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir()))
        if there and not is_store(self.path):
            raise StoreError(f"{self.path} exists and is not an actigrad store; it is left alone. Choose another path.")
        self._journal = Journal(self.path)
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Write what is left; the store is complete when the block was not left by an exception."""
        try:
            if self._session:
                self._session.close(complete=kind is None and not self._off)
        except Exception as error:
            self._turn_off(error)
        finally:
            assert self._journal is not None
            self._journal.__exit__()
            complete, self._journal, self._session = kind is None and self._session is not None, None, None
        if complete and not self._off and self.asked.levels:
            self._write_levels()

    def wants(self, step: int) -> bool:
        """Whether `record(step, …)` has anything to do, so that its arguments need be made."""
        if self._session is None:
            return not self._off
        every = self.asked.every
        return not self._off and (step % every == 0 or ((step + 1) % every == 0 and "update" in self.asked.parameters))

    def __call__(self, step: int, params: Any, batch: Any = None) -> None:
        """Record, if it is time to.

        Args:
            step: training updates done. Call it at every step: the params one update before a recorded step are what
                the update is told from.
            params: after that update. They are read before this returns or copied, so they may be donated afterwards.
            batch: any batch of the training; looked at in the first call only, and there only without a `probe`.

        Raises:
            StoreError: outside of the `with` block; or in the first call, when the store was made with other sites.
            CaptureError, NoSuchSite: in the first call, when the loss cannot be captured.
        """
        step = operator.index(step)
        if not self.wants(step):
            return
        if self._session is None:
            self._session = self._begin(params, batch)
        try:
            self._take(self._session, step, params)
        except Exception as error:
            self._turn_off(error)

    def flush(self) -> None:
        """Write what was recorded so far, and wait for it; the store can be opened at any time, and has it then."""
        if self._session and not self._off:
            self._session.scribe.flush()

    def _begin(self, params: Any, batch: Any) -> "_Session":
        if self._journal is None:
            raise StoreError("a Recorder records inside its `with` block: with Recorder(...) as record: record(...).")
        if self._given is None and batch is None:
            raise CaptureError("the first call of a Recorder needs a batch, or the Recorder a probe: probe=batch.")
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((params, batch))):
            raise CaptureError("a Recorder was called inside a transformation (jit, grad, scan); call it in the loop.")
        file = self._journal.folder / "probe.npz"
        given = self._given is not None
        probe = probes.own(self._given) if given else probes.own(probes.first(batch, self.asked.samples))
        if not given and file.exists() and is_store(self.path):
            probe = probes.load(file, probe)
        return _Session(self.path, self.loss, self.asked, self._journal, params, probe)

    def _take(self, session: "_Session", step: int, params: Any) -> None:
        if session.scribe.failure:
            raise session.scribe.failure
        every, last = self.asked.every, session.last
        if step % every == 0 and step <= last:
            self._warn(
                f"step {step} is not recorded: {self.path} holds steps up to {last}. They are kept, and recording goes "
                f"on after step {last}; to record everything anew, give the Recorder another path."
            )
        elif step % every == 0:
            before = self._before[1] if self._before and self._before[0] == step - 1 else None
            if not session.take(step, params, before):
                self._warn(f"steps from {step} on are left out where the disk of {self.path} is too slow for them.")
        self._before = None
        if (step + 1) % every == 0 and "update" in self.asked.parameters:
            self._before = (step, _copied(named_leaves(params)))

    def _turn_off(self, error: Exception) -> None:
        """Recording has failed; the training has not."""
        self._off, self._before = True, None
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        self._warn(
            f"recording to {self.path} is off from here on, and training goes on: {what}\n"
            "What was recorded before is safe, and a Recorder on the same path continues it."
        )

    def _write_levels(self) -> None:
        """Or go on with them. When this fails the store is whole, and a training may go on after it."""
        from actigrad.pictures.catalogue import write_levels

        try:
            write_levels(self.path, self.asked.levels)
        except Exception as error:
            self._warn(f"{self.path} is whole, but its levels could not be made: {error}. Later: actigrad levels STORE")

    def _warn(self, text: str) -> None:
        """Once for each kind of trouble."""
        kind = text.partition(" ")[0]
        if kind not in self._told:
            self._told.add(kind)
            warnings.warn(text, UserWarning, stacklevel=4)


class _Session:
    """A Recorder that has seen its first params and batch."""

    def __init__(self, path: Path, loss: Callable[..., Any], asked: Asked, journal: Journal, params: Any, probe: Any):
        self.path, self.asked, self.journal, self.probe = path, asked, journal, probe
        samples = probes.name_samples(probe)
        n = len(samples["id"])
        program = trace_program(loss, *split_arguments((params, probe, (), {})))
        shape = jax.eval_shape(loss, params, probe)
        value, aux = shape if program.has_aux else (shape, None)
        predicts = isinstance(aux, dict) and getattr(aux.get("prediction"), "shape", None) == (n,)
        config = asked.config(path, n)
        plans = make_plans(config, program.sites)
        parameters = {name: leaf.shape for name, leaf in named_leaves(params).items()}
        self.template = growing(make_template(config, plans, samples, Tensors({}, parameters, predicts)))
        self.attrs = _attributes(asked, program, [plan.site.path for plan in plans], n, value.ndim == 1)
        self.attrs["fingerprint"] = {"probe": probes.digest(probe)}
        self.appender = Appender(path) if is_store(path) else None
        if self.appender:
            check_version(path, writing=True)
            _check_same(self.appender, self.template, self.attrs)
        self.measure = Measure(loss, plans, asked.parameters, samples=n, predicts=predicts)
        self.measure.trace(params, probe)
        self.last = self.appender.steps[-1] if self.appender and self.appender.steps else -1
        self.scribe = Scribe(self._write)

    def take(self, step: int, params: Any, before: dict[str, jax.Array] | None) -> bool:
        """Dispatch one moment; whether there was room for it."""
        taken = self.measure(params, before, self.probe)
        taken.start_copy()
        there = self.scribe.offer(step, taken)
        self.last = step if there else self.last
        return there

    def close(self, *, complete: bool) -> None:
        """Write what is left.

        Raises:
            Exception: what writing failed with.
        """
        self.scribe.finish()
        if self.scribe.failure:
            raise self.scribe.failure
        if self.appender:
            self.appender.close(complete=complete)

    def _write(self, moments: list[Moment]) -> None:
        """In the scribe's thread."""
        steps = [step for step, _ in moments]
        rows = self.measure.rows([taken for _, taken in moments])
        if self.appender:
            self.appender.append(steps, rows)
            return
        self.journal.begin(self.attrs["fingerprint"])
        probes.save(self.journal.folder / "probe.npz", self.probe)
        create_growing(self.path, self.template, self.attrs, steps, rows)
        self.appender = Appender(self.path)


@jax.jit
def _copied(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Buffers of their own, so that the training may donate its."""
    return jax.tree.map(jnp.copy, leaves)


def _listed(patterns: str | Sequence[str]) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _checked(**words: Any) -> Asked:
    try:
        return Asked(**words)
    except ValidationError as error:
        raise ConfigError(
            [
                Problem(".".join(map(str, one["loc"])), repr(one["input"]), one["msg"], "Recorder(...)")
                for one in error.errors()
            ]
        ) from error


def _check_same(appender: Appender, template: Template, attrs: dict[str, Any]) -> None:
    """Raise unless what is there can be continued."""
    there, ours = appender.layout(), {name: layout_of(spec) for name, spec in template.arrays.items()}
    differ = sorted(name for name in there.keys() | ours.keys() if there.get(name) != ours.get(name))
    what = [f"arrays ({', '.join(differ[:3])}{', …' * (len(differ) > 3)})"] if differ else []
    what += [
        name for name, key in (("probe batch", "fingerprint"), ("kind of loss", "gradients_of"))
        if appender.attributes.get(key) != attrs[key]
    ]  # fmt: skip
    if what:
        raise StoreError(
            f"the store {appender.path} was made with other {' and other '.join(what)} than this Recorder would add. "
            "Continue it with what it was made with, or choose another path."
        )


def _attributes(asked: Asked, program: Program, sites: list[str], samples: int, per_sample: bool) -> dict[str, Any]:
    return {
        "actigrad_schema": SCHEMA_VERSION,
        "title": f"actigrad: {asked.loss}",
        **provenance(),
        "config": asked.model_dump(mode="json"),
        "seed": None,
        "gradients_of": "each sample's own loss" if per_sample else "the loss of the sample's batch",
        "sites": sites,
        "after_the_sites": work_attrs(program.flow.work[LOSS], samples),
        "edges": [[site.path, target] for site in program.sites for target in site.feeds],
    }
