"""Job: a config made ready to run: references resolved, model built, data loaded, sites known. Nothing computed yet.

What can be wrong with a run is found here, before anything is trained or written:

    job = load(configfile.load_config("configs/digits.yaml"))
    [site.path for site in job.sites]
    job.template().nbytes                     # what the store will hold, from shapes alone
"""

import hashlib
import platform
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actigrad.checkpoints import read_checkpoint, restore_params
from actigrad.config.records import Config
from actigrad.engine.flow import LOSS
from actigrad.engine.program import Program, split_arguments, trace_program
from actigrad.errors import ActigradError, CaptureError, ConfigError, Problem
from actigrad.frameworks import observe
from actigrad.runs.parts import called, choose_rows, open_data, resolve_all, with_checkpoints
from actigrad.sites import Site, Work, choose
from actigrad.sources import Batch, Source, read_ahead
from actigrad.storage.grid import blocks
from actigrad.storage.places import Place, find_place
from actigrad.storage.schema import Plan, Tensors, make_plans, make_template
from actigrad.storage.template import Template

TAKEN = {"sample", "step", "loss", "prediction", "objective", "gradient_norm"}
"""What the run itself puts beside each sample: a field of the data that is called so gets one `_`."""


@dataclass(frozen=True)
class Job:
    """A run that can start.

    Attributes:
        config: what was asked for; a pattern of checkpoints is the list of those found.
        loss: `loss(params, batch)`.
        objective: what gradients are of, like the loss; often the loss itself.
        params: the model's initial state, that of the first checkpoint where there are any.
        source: the samples, read as they are needed.
        rows: the samples that are captured, as offsets into the source.
        train: the training factory with its options, or None.
        sites: every site of the model.
        rest: the work that is done after the last sites, up to the loss.
        predicts: whether the loss returns `prediction` beside it, one a sample.
        per_sample: whether the objective is one a sample.
    """

    config: Config
    loss: Callable[..., Any]
    objective: Callable[..., Any]
    params: Any
    source: Source
    rows: np.ndarray
    train: Callable[..., Iterator[tuple[int, Any]]] | None
    sites: tuple[Site, ...]
    rest: Work
    predicts: bool
    per_sample: bool

    @property
    def place(self) -> Place:
        """Where its store goes."""
        return find_place(self.config.store.path, self.config.store.options)

    def batch(self, start: int, stop: int) -> Batch:
        """The captured samples from start to stop, or to the last."""
        with closing(self._read([(start, min(stop, len(self.rows)))])) as batches:
            return next(batches)[1]

    def batches(self, done: int = 0, until: int | None = None) -> Generator[tuple[tuple[int, int], Batch]]:
        """((start, stop), batch) of the captured samples, those batches that start from `done` on and before `until`.

        A thread reads ahead of the caller; it ends with the generator.

        Raises:
            DataError: when a batch cannot be read, or is not what it was before; it names the batch.
        """
        until = len(self.rows) if until is None else until
        wanted = [one for one in blocks(len(self.rows), self.config.data.batch_size) if done <= one[0] < until]
        return read_ahead(self._read(wanted))

    def _read(self, wanted: list[tuple[int, int]]) -> Generator[tuple[tuple[int, int], Batch]]:
        yield from self.source.read(self.rows, wanted)

    def plans(self) -> tuple[Plan, ...]:
        """What to keep of each site.

        Raises:
            ConfigError: with every pattern of `capture` that matches no site.
        """
        problems = list(_unmatched(self.config, self.sites))
        if problems:
            raise ConfigError(problems)
        return make_plans(self.config, self.sites)

    def template(self) -> Template:
        """The store that this run will make."""
        return make_template(self.config, self.plans(), self.samples(), self.tensors())

    def samples(self) -> Batch:
        """What is known of each captured sample: its row in the data, ids and labels; a stream is read for it."""
        known = self.source.known(self.rows)
        renamed = {f"{name}_" if name in TAKEN else name.replace("/", "_"): values for name, values in known.items()}
        return {"id": self.rows, **renamed}

    @property
    def traced(self) -> int:
        """How many samples the sites' shapes and work are of."""
        return min(self.config.data.batch_size, len(self.rows))

    def tensors(self) -> Tensors:
        """Inputs and parameters."""
        fields = {name: self.source.fields[name] for name in self.source.numbers}
        kinds = {name: np.dtype(f.dtype).kind for name, f in fields.items() if f.shape}
        inputs = {name: (fields[name].shape, kind == "f") for name, kind in kinds.items() if kind in "fiu"}
        parameters = {path: leaf.shape for path, leaf in named_leaves(self.params).items()}
        return Tensors(inputs, parameters, self.predicts)

    def recorded(self) -> Iterator[tuple[int, Any, Any]]:
        """(step, params one update before, params) at each recorded step; trains or loads checkpoints on the way.

        Before the first of several checkpoints is that one itself, so its update is zero.
        """
        if self.train is None:
            before = self.params
            for step, params in zip(self.config.steps, self._states(), strict=True):
                yield step, before, params
                before = params
            return
        assert self.config.train is not None
        wanted, before, step = set(self.config.steps), self.params, 0
        for step, params in self.train(
            self.loss, self.params, self.source.for_training(), steps=self.config.train.steps, seed=self.config.seed
        ):
            if step in wanted:
                yield step, before, params
            before = params
        if step < max(wanted):
            expected = f"an iterator that yields (step, params) up to step {max(wanted)}"
            raise ConfigError(Problem("train.factory", f"one that stopped after step {step}", expected, "the config"))

    def _states(self) -> Iterator[Any]:
        """The params that the run begins with, or of each checkpoint of a list, one at a time."""
        model = self.config.model
        paths = model.checkpoint if isinstance(model.checkpoint, tuple) else ()
        yield self.params
        for path in paths[1:]:
            yield restore_params(self.params, read_checkpoint(path, model.trust), path)

    def fingerprint(self) -> dict[str, str]:
        """What makes this run this run, by part; where it writes is none of it."""
        return dict(self._fingerprint)

    @cached_property
    def _fingerprint(self) -> dict[str, str]:
        elsewhere = {"store": {"path", "options"}, "report": True, "levels": True}
        config = self.config.model_dump_json(exclude=elsewhere)
        leaves = (leaf for params in self._states() for leaf in named_leaves(params).values())
        weights = _digest(np.asarray(leaf).tobytes() for leaf in leaves)
        return {"config": _digest([config.encode()]), "data": self.source.digest(), "weights": weights}


def load(config: Config, where: str = "the config") -> Job:
    """Resolve, build, load and trace (on shapes).

    Args:
        config: a checked config.
        where: the file it came from, for problems found here.

    Raises:
        ConfigError: all references that cannot be resolved at once; a factory that fails or returns something else; a
            checkpoint that does not fit the model.
        DataError: when the first batch cannot be read.
        CaptureError: when the loss cannot be traced on a batch of the data.
    """
    config = with_checkpoints(config, where)
    model_factory, data_factory, loss, train, objective = resolve_all(config, where)
    source = open_data(config, data_factory, where)
    model = called("model", where, partial(model_factory, seed=config.seed, **config.model.options))
    apply, params = observe(model)
    if checkpoint := config.model.checkpoint:
        first = checkpoint if isinstance(checkpoint, str) else checkpoint[0]
        params = restore_params(params, read_checkpoint(first, config.model.trust), first)
    bound = partial(loss, apply)
    asked = partial(objective, apply, **config.objective.options) if config.objective else bound
    rows = choose_rows(config, len(source), where)
    head = next(iter(source.read(rows, [(0, min(config.data.batch_size, len(rows)))])))[1]
    program, value = _trace(asked, "objective" if config.objective else "loss", params, head)
    out = jax.eval_shape(bound, params, head)
    aux = out[1] if isinstance(out, tuple) else {}
    predicts = (
        isinstance(aux, Mapping)
        and "prediction" in aux
        and aux["prediction"].shape == (len(rows[: config.data.batch_size]),)
    )
    options = config.train.options if config.train else {}
    train = train and partial(train, **options)
    rest = program.flow.work[LOSS]
    return Job(config, bound, asked, params, source, rows, train, program.sites, rest, predicts, value.ndim == 1)


def provenance() -> dict[str, Any]:
    """When, with what and on what a store is made, for its attributes."""
    packages = ("actigrad", "jax", "flax", "numpy", "xarray", "zarr")
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "device": jax.devices()[0].device_kind,
    }


def named_leaves(tree: Any) -> dict[str, Any]:
    """The floating arrays of a pytree by path, `block1/conv/kernel`."""
    leaves = jax.tree.leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    return {path: leaf for path, leaf in named.items() if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size}


def _trace(loss: Callable[..., Any], what: str, params: Any, batch: Batch) -> tuple[Program, Any]:
    """The program of a loss or an objective, and the shape of its value."""
    try:
        program = trace_program(loss, *split_arguments((params, batch, (), {})))
        out = jax.eval_shape(loss, params, batch)
        return program, out[0] if isinstance(out, tuple) else out
    except ActigradError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{name} {values.dtype}{list(values.shape)}" for name, values in batch.items())
        raise CaptureError(
            f"the {what} failed on a batch of the data ({shapes}): {type(error).__name__}: {error}\n"
            f"Do the model's input shape and the keys of data.factory fit the {what}?"
        ) from error


def _unmatched(config: Config, sites: tuple[Site, ...]) -> Iterator[Problem]:
    for index, rule in enumerate(config.capture):
        for name, patterns in (("sites", rule.sites), ("exclude", rule.exclude)):
            for pattern in patterns:
                try:
                    choose(sites, pattern)
                except CaptureError as error:
                    yield Problem(
                        f"capture.{index}.{name}", repr(pattern), "a pattern of sites", "the config", str(error)
                    )


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
