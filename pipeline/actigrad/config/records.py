"""The config: what a YAML file may say, as frozen records.

    config = configfile.load_config("configs/digits.yaml", ["train.steps=100"])
    config.capture[0].sites                      # ("**",)

Reading a file and telling what is wrong with it is `configfile`'s work. Records are strict: `'2'` is not 2, and a key
that is not known is an error, because a typo that is silently dropped runs the wrong thing for hours. Factories are
references, `module:name`.
"""

import re
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    model_validator,
)

PositiveInt = Annotated[int, Field(ge=1)]
Quantity = Literal["activation", "gradient"]


def _reference(value: str) -> str:
    module, _, name = value.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), *name.split(".")]):
        raise ValueError("a reference 'module:name', as in 'actigrad.zoo.digits:build'")
    return value


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else _as_tuple(value)


def _location(value: Any) -> Path | str:
    """A URL stays what it is: as a path, it would lose a slash."""
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("a path or a URL")
    return value if isinstance(value, str) and "://" in value else Path(value)


def _without_secrets(options: dict[str, Any]) -> dict[str, Any]:
    if secret := next((name for name in options if SECRET.search(name)), None):
        raise ValueError(
            f"options without {secret!r}: the config is stored in every store, so credentials come from the environment"
        )
    return options


SECRET = re.compile(r"(?i)secret|token|password|access_key|account_key|sas_")
Location = Annotated[
    Path | str, PlainValidator(_location, json_schema_input_type=str), PlainSerializer(str, return_type=str)
]
Reference = Annotated[str, AfterValidator(_reference)]
Patterns = Annotated[tuple[str, ...], BeforeValidator(_one_or_more, json_schema_input_type=str | list[str])]

OrderName = Annotated[str, Field(pattern=r"^(natural|score(:[a-z_]+)?|peak:(step|sample)|selectivity|similarity)$")]


class Record(BaseModel):
    """A frozen, strict record that knows all its keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelSpec(Record):
    """Where the model comes from."""

    factory: Reference
    """`factory(*, seed, **options)` returns a model that `actigrad.observe` knows."""
    options: dict[str, Any] = {}
    """Further keyword arguments of the factory."""
    checkpoint: Annotated[
        str | tuple[str, ...] | None, BeforeValidator(_as_tuple, json_schema_input_type=str | list[str] | None)
    ] = None
    """Weights to load: Orbax, safetensors or Flax msgpack. A list or a pattern of several becomes the `step` dim."""
    trust: Literal["pickle"] | None = None
    """`pickle` to load checkpoints that only pickle can read; it runs any program that their author put into them."""

    @property
    def steps(self) -> tuple[int, ...]:
        """The step of each checkpoint of a list; 0 for a single one."""
        return numbered(self.checkpoint) if isinstance(self.checkpoint, tuple) else (0,)


class DataSpec(Record):
    """Where the samples come from: a factory or a path."""

    factory: Reference | None = None
    """`factory(**options)` returns a dict of arrays, batches, or a dataset; see docs/data.md."""
    path: Path | None = Field(default=None, strict=False)
    """A file or folder in place of a factory: NumPy, Zarr, netCDF, Parquet, Arrow, a saved Hugging Face dataset."""
    trust: Literal["pickle"] | None = None
    """`pickle` to load a path that only pickle can read; it runs any program that its author put into it."""
    options: dict[str, Any] = {}
    """Further keyword arguments of the factory."""
    batch_size: PositiveInt = 256
    """Samples in one jitted call."""
    samples: PositiveInt | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    """Which samples to capture: the first so many, a list of indices, or null for all; a stream needs a number."""

    @model_validator(mode="after")
    def _from_one_place(self) -> "DataSpec":
        if (self.factory is None) == (self.path is None):
            raise ValueError("exactly one of factory (a function) and path (a file or folder)")
        if self.path is not None and self.options:
            raise ValueError("options with a factory only: a path takes none")
        return self


class TrainSpec(Record):
    """How the model is trained, and how often it is recorded."""

    factory: Reference
    """`factory(loss, params, data, *, steps, seed, **options)` yields (updates done, params) after each update."""
    options: dict[str, Any] = {}
    """Further keyword arguments of the factory."""
    steps: PositiveInt
    """How many updates."""
    record_every: PositiveInt
    """Record after every so many updates; at most `steps`."""


class ObjectiveSpec(Record):
    """What gradients are of, where that is not the loss: a logit, a class score, any number made of the outputs."""

    function: Reference
    """`function(apply, params, batch, **options)` returns a scalar or one value a sample, as a loss does."""
    options: dict[str, Any] = {}
    """Further keyword arguments of the function."""


class CaptureRule(Record):
    """What to keep of which sites. Later rules add to earlier ones."""

    sites: Patterns = ("**",)
    """Patterns of sites: `**`, `head/*`, `conv{1,2}`, `type:Linear`, `re:...`."""
    exclude: Patterns = ()
    """Patterns of sites to leave out."""
    quantities: tuple[Quantity, ...] = Field(default=("activation", "gradient"), strict=False, min_length=1)
    """Which quantities."""
    keep: Literal["summary", "levels", "full"] = "summary"
    """A few values a neuron and a histogram; also a picture of neurons by samples (docs/levels.md); or whole arrays."""
    steps: Literal["last", "all"] = "last"
    """At which recorded steps pictures or whole arrays are kept; summaries are kept at all."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of whole arrays. bfloat16 values are stored in float32, where they compress to about half."""


class InputSpec(Record):
    """What to keep of the model's input at the last recorded step."""

    keep: Literal["full", "none"] = "full"
    """The input's values and the gradient of each sample's loss with respect to them, or nothing."""
    methods: tuple[Literal["integrated", "smoothed", "randomised"], ...] = Field(default=(), strict=False)
    """Further maps beside the gradient: integrated and smoothed gradients, and each map under randomised weights."""


class ParameterSpec(Record):
    """What to keep of the parameters."""

    quantities: tuple[Literal["value", "gradient", "update"], ...] = Field(
        default=("value", "gradient", "update"), strict=False, min_length=1
    )
    """The value, the gradient summed over the captured samples, and the change by the last update."""
    keep: Literal["summary", "full", "none"] = "summary"
    """A few values a neuron at every recorded step, also the whole arrays at the last, or nothing."""
    sample_norms: bool = False
    """Whether to keep the norm of each sample's own gradient; costs a backward pass a sample."""


class StoreSpec(Record):
    """Where the data go, and how they are encoded."""

    path: Location
    """A directory, made by the run, relative to where the command runs; or a URL: `s3://bucket/run.zarr`."""
    options: Annotated[dict[str, Any], AfterValidator(_without_secrets)] = {}
    """Of the object store, as obstore names them (`endpoint`, `region`, …). Credentials come from the environment."""
    codec: Literal["auto", "none", "zstd", "lz4"] = "auto"
    """Of whole arrays; auto: lz4 for bfloat16, zstd where the first batch is 30 % zeros, else none, as measured."""
    chunk_bytes: PositiveInt = 2**23
    """Aim for one write of a whole array; at least one batch."""


class LevelsSpec(Record):
    """In which orders large matrices of neurons get levels, for fast pictures of any part of them (docs/levels.md)."""

    orders: Annotated[tuple[OrderName, ...], BeforeValidator(_as_tuple)] = ("natural",)
    """natural, score, score:METRIC, peak:step, peak:sample, selectivity, similarity; all but natural are stored."""


class ReportSpec(Record):
    """Where the report goes."""

    path: Path = Field(strict=False)
    """One HTML file; relative to where the command runs."""


class Config(Record):
    """A run: a model, data, a loss, what to capture, and where it goes."""

    model: ModelSpec
    data: DataSpec
    loss: Reference
    """`loss(apply, params, batch)` returns a scalar or one value a sample, or a pair of either and a dict."""
    store: StoreSpec
    objective: ObjectiveSpec | None = None
    """What gradients are of; null for the loss. Training, the stored losses and predictions stay those of `loss`."""
    train: TrainSpec | None = None
    capture: Annotated[tuple[CaptureRule, ...], BeforeValidator(_as_tuple)] = (CaptureRule(),)
    inputs: InputSpec = InputSpec()
    parameters: ParameterSpec = ParameterSpec()
    levels: LevelsSpec | None = LevelsSpec()
    """Made after the run; null for none."""
    report: ReportSpec | None = None
    seed: int = 0
    """Seeds the model's factory and the training."""
    devices: None = None
    """Must be null in this version: the default device is used."""
    cluster: None = None
    """Must be null in this version: one process."""

    @property
    def steps(self) -> tuple[int, ...]:
        """The recorded steps: multiples of `record_every`; without training those of the checkpoints, or step 0 alone.

        Of a run, `job.config` is to be asked: there a pattern of checkpoints has become the list of those found.
        """
        if self.train is None:
            return self.model.steps
        return tuple(range(self.train.record_every, self.train.steps + 1, self.train.record_every))


def numbered(paths: tuple[str, ...]) -> tuple[int, ...]:
    """The step of each checkpoint: the last number in its name, or in its folder's; 0, 1, 2, … where that fails.

    >>> numbered(("step_20", "step_100")), numbered(("run/20/w.safetensors", "run/100/w.safetensors"))
    ((20, 100), (20, 100))
    >>> numbered(("first.msgpack", "best.msgpack"))
    (0, 1)
    """
    parts = [PurePath(re.sub(r"\.[A-Za-z]\w*$", "", path)).parts for path in paths]
    for depth in (1, 2):
        names = [part[-depth] if len(part) >= depth else "" for part in parts]
        found = [int(digits[-1]) for name in names if (digits := re.findall(r"\d+", name))]
        if len(set(found)) == len(paths):
            return tuple(found)
    return tuple(range(len(paths)))


def json_schema() -> dict[str, Any]:
    """The config's JSON Schema, for editors."""
    schema = Config.model_json_schema()
    return schema | {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "actigrad config"}
