"""Job: a config made ready to run: references resolved, model built, data loaded, sites known. Nothing computed yet.

What can be wrong with a run is found here, before anything is trained or written:

    job = load(configfile.load_config("configs/digits.yaml"))
    [site.path for site in job.sites]
    job.template().nbytes                     # what the store will hold, from shapes alone
"""

import hashlib
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actigrad.config.records import Config
from actigrad.config.references import resolve
from actigrad.engine.flow import LOSS
from actigrad.engine.program import Program, split_arguments, trace_program
from actigrad.errors import ActigradError, CaptureError, ConfigError, Problem
from actigrad.frameworks import observe
from actigrad.sites import Site, Work, choose
from actigrad.storage.places import Place, find_place
from actigrad.storage.schema import Plan, Template, Tensors, make_plans, make_template

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Job:
    """A run that can start.

    Attributes:
        config: what was asked for.
        loss: `loss(params, batch)`.
        objective: what gradients are of, like the loss; often the loss itself.
        params: the model's initial state.
        data: all samples, for training.
        rows: the samples that are captured, as offsets into `data`.
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
    data: Batch
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
        """The captured samples from start to stop."""
        return {name: values[self.rows[start:stop]] for name, values in self.data.items()}

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
        """What is known of each captured sample: its row in the data, and its integer values (label, split)."""
        known = {name: v[self.rows] for name, v in self.data.items() if v.ndim == 1 and v.dtype.kind in "iub"}
        return {"id": self.rows, **known}

    @property
    def traced(self) -> int:
        """How many samples the sites' shapes and work are of."""
        return min(self.config.data.batch_size, len(self.rows))

    def tensors(self) -> Tensors:
        """Inputs and parameters."""
        inputs = {name: v.shape[1:] for name, v in self.data.items() if v.dtype.kind == "f" and v.ndim > 1}
        parameters = {path: leaf.shape for path, leaf in named_leaves(self.params).items()}
        return Tensors({name: (shape, True) for name, shape in inputs.items()}, parameters, self.predicts)

    def recorded(self) -> Iterator[tuple[int, Any, Any]]:
        """(step, params one update before, params) at each recorded step; trains on the way."""
        if self.train is None:
            yield 0, self.params, self.params
            return
        assert self.config.train is not None
        wanted, before, step = set(self.config.steps), self.params, 0
        for step, params in self.train(
            self.loss, self.params, self.data, steps=self.config.train.steps, seed=self.config.seed
        ):
            if step in wanted:
                yield step, before, params
            before = params
        if step < max(wanted):
            expected = f"an iterator that yields (step, params) up to step {max(wanted)}"
            raise ConfigError(Problem("train.factory", f"one that stopped after step {step}", expected, "the config"))

    def fingerprint(self) -> dict[str, str]:
        """What makes this run this run, by part; where it writes is none of it."""
        config = self.config.model_dump_json(exclude={"store", "report"})
        data = [f"{name}{values.dtype}{values.shape}".encode() + values.tobytes() for name, values in self.data.items()]
        weights = [leaf.tobytes() for leaf in map(np.asarray, named_leaves(self.params).values())]
        return {"config": _digest([config.encode()]), "data": _digest(data), "weights": _digest(weights)}


def load(config: Config, where: str = "the config") -> Job:
    """Resolve, build, load and trace (on shapes).

    Args:
        config: a checked config.
        where: the file it came from, for problems found here.

    Raises:
        ConfigError: all references that cannot be resolved at once; a factory that fails or returns something else.
        CaptureError: when the loss cannot be traced on a batch of the data.
    """
    model_factory, data_factory, loss, train, objective = _resolve_all(config, where)
    data = _load_data(config, data_factory, where)
    model = _called("model", where, partial(model_factory, seed=config.seed, **config.model.options))
    apply, params = observe(model)
    bound = partial(loss, apply)
    asked = partial(objective, apply, **config.objective.options) if config.objective else bound
    rows = _choose_rows(config, len(next(iter(data.values()))), where)
    head = {name: values[rows[: config.data.batch_size]] for name, values in data.items()}
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
    return Job(config, bound, asked, params, data, rows, train, program.sites, rest, predicts, value.ndim == 1)


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


def _resolve_all(config: Config, where: str) -> list[Any]:
    """The functions of the config, None where it names none, or one error with every reference that is wrong."""
    references: dict[str, str | None] = {
        "model.factory": config.model.factory, "data.factory": config.data.factory, "loss": config.loss,
    }  # fmt: skip
    references["train.factory"] = config.train.factory if config.train else None
    references["objective.function"] = config.objective.function if config.objective else None
    found, problems = [], []
    for key, reference in references.items():
        try:
            found.append(reference and resolve(reference, key=key, where=where))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return found


def _called(key: str, where: str, factory: Callable[[], Any]) -> Any:
    """What a factory returns; its own failure is told as the config's."""
    try:
        return factory()
    except ActigradError:
        raise
    except Exception as error:
        found = f"a factory that raised {type(error).__name__}: {error}"
        raise ConfigError(Problem(f"{key}.factory", found, "one that accepts these options", where)) from error


def _load_data(config: Config, factory: Callable[..., Any], where: str) -> Batch:
    data = _called("data", where, partial(factory, **config.data.options))
    expected = "a dict of arrays whose first axes, the samples, have one length"
    if not isinstance(data, Mapping) or not data:
        raise ConfigError(Problem("data.factory", f"one that returned a {type(data).__name__}", expected, where))
    arrays = {str(name): np.asarray(values) for name, values in data.items()}
    shapes = {name: values.shape for name, values in arrays.items()}
    if len({shape[:1] for shape in shapes.values()}) != 1 or () in shapes.values():
        raise ConfigError(Problem("data.factory", f"one that returned shapes {shapes}", expected, where))
    return arrays


def _choose_rows(config: Config, available: int, where: str) -> np.ndarray:
    asked = config.data.samples
    rows = np.arange(available) if asked is None else np.asarray(asked) if isinstance(asked, list) else np.arange(asked)
    if len(rows) == 0 or rows.max() >= available:
        expected = f"samples among the {available} that the data hold"
        raise ConfigError(Problem("data.samples", str(asked), expected, where))
    return rows


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


def _digest(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
