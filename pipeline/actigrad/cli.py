"""The command line: words to one call each. `actigrad --help` is the page to read.

Modules are imported inside the commands, so that help and errors come at once. Exit codes: 0 done, 1 a run or a store
that failed, 2 a config or an option that cannot be used, 130 stopped with Ctrl-C.
"""

import gc
import json
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from actigrad.errors import ActigradError, ConfigError

HELP = """
Activations and gradients of any JAX model: captured in one jitted pass, kept as chunked xarray datasets, \
shown as heatmaps that stay true.

\b
actigrad run configs/digits.yaml      train, capture, store, report
actigrad sites configs/digits.yaml    what can be captured

A config names a model, its data and a loss as module:function, and says what to keep. \
--set key.path=value overrides any of its keys: --set capture.0.keep=full.
"""

app = typer.Typer(
    help=HELP, no_args_is_help=True, rich_markup_mode="rich", add_completion=False, pretty_exceptions_enable=False
)
ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file of the run.", show_default=False)]
StorePath = Annotated[
    str, typer.Argument(metavar="STORE", help="The Zarr directory of a run, or its URL.", show_default=False)
]
Sets = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the config; repeatable.")
]


@app.command()
def run(
    config: ConfigPath,
    set_: Sets = [],  # noqa: B006 - typer reads it
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted run of this config stopped.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the store that is there.")] = False,
) -> None:
    """Train, capture, write the store and the report."""
    if resume and overwrite:
        raise typer.BadParameter("--resume and --overwrite exclude each other")
    job = _load(config, set_)
    from actigrad.progress import Bars, print_result
    from actigrad.runs import run as running

    store, html = job.config.store.path, job.config.report.path if job.config.report else None
    instead = " in place of --overwrite" if overwrite else ""
    with _stoppable(f"{store} may be incomplete. Finish it: the same command with --resume{instead}."), Bars() as bars:
        result = running.run(job, resume=resume, overwrite=overwrite, progress=bars)
    if job.config.levels:
        with _stoppable(f"{store} is complete. Make its levels: actigrad levels {store}"):
            _write_levels(job.place, job.config.levels.orders, job.config.seed)
    with _stoppable(f"{store} is complete. Write its report: actigrad report {store}"), Bars() as bars:
        written = _write_report(job.place, html, bars) if html else None
    print_result(result, written)


@app.command()
def sites(
    config: ConfigPath,
    set_: Sets = [],  # noqa: B006
    tree: Annotated[
        bool, typer.Option("--tree", help="As the module tree: parameters, FLOPs, operations, what feeds what.")
    ] = False,
) -> None:
    """List what can be captured: path, dims, shape, dtype, bytes a sample. Computes nothing."""
    from actigrad.progress import print_sites, print_tree

    job = _load(config, set_, planned=False)
    print_tree(job.sites, job.rest, job.traced) if tree else print_sites(job.sites)


@app.command()
def plan(
    config: ConfigPath,
    set_: Sets = [],  # noqa: B006
    memory: Annotated[
        bool, typer.Option("--memory", help="Compile the step: what it takes on the device, and the largest batch.")
    ] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="Capture one batch: bytes after compression, and the time that it takes.")
    ] = False,
) -> None:
    """Tell what a run will need: bytes a site and in all, the free disk; on request memory, compressed bytes, time."""
    from actigrad.progress import print_estimate, print_memory
    from actigrad.runs.estimate import estimate, estimate_memory
    from actigrad.runs.estimate import probe as capture_one

    job = _load(config, set_)
    needed = estimate(job)
    print_estimate(needed, capture_one(job) if probe else None)
    if memory:
        print_memory(estimate_memory(job), needed)


@app.command()
def check(
    config: ConfigPath,
    set_: Sets = [],  # noqa: B006
    samples: Annotated[int, typer.Option(help="How many samples to check with.")] = 32,
) -> None:
    """Verify capture on the config's own model, without a reference. Exit 1 when anything is wrong."""
    from actigrad.engine.checking import check as verify
    from actigrad.progress import print_report

    job = _load(config, set_)
    report = verify(job.objective, job.params, job.batch(0, samples))
    print_report(report)
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def info(store: StorePath) -> None:
    """Tell what a store holds."""
    from actigrad.progress import print_facts
    from actigrad.storage.store import describe

    print_facts(describe(store))


@app.command()
def verify(store: StorePath) -> None:
    """Read every chunk against its checksum, and the journal. Exit 1 when anything is missing or damaged."""
    from actigrad.progress import Bars, print_verification
    from actigrad.storage.verification import verify as read_all

    with _stoppable("Nothing was changed."), Bars() as bars:
        found = read_all(store, bars.counting("chunks", "chunk"))
    print_verification(store, found)
    raise typer.Exit(1 if found.damages else 0)


@app.command()
def repair(store: StorePath) -> None:
    """Capture again what is missing or damaged in a store, and nothing else. Run it where the run was run."""
    from actigrad.runs.repair import repair as mend

    with _stoppable("What was repaired so far is on the disk; run it again."):
        done = mend(store, told=lambda what: print(what, file=sys.stderr))
    chunks = f"{done.regions} chunk{'s' * (done.regions != 1)}"
    steps = f", captured at step {', '.join(map(str, done.steps))}" if done.steps else ""
    print(f"{chunks} written again{steps}" if done.damages else "nothing is damaged")


@app.command()
def report(
    store: StorePath,
    other: Annotated[str | None, typer.Argument(metavar="[STORE]", help="Another run, to compare with.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where; beside the store by default.")] = None,
    steps: Annotated[tuple[int, int] | None, typer.Option(metavar="A B", help="Compare two recorded steps.")] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="The pictures for a paper: a PDF, a picture a page.")] = False,
    kind: Annotated[str | None, typer.Option("--format", metavar="png|svg", help="The same as a folder.")] = None,
    width: Annotated[str, typer.Option(help="Of a picture for a paper: 85mm, 17cm or 3.3in.")] = "170mm",
) -> None:
    """Write the report of a store, or of what differs between two: one HTML file, or pictures for a paper."""
    if pdf and kind:
        raise typer.BadParameter("--pdf and --format exclude each other")
    from actigrad import report as reports
    from actigrad.progress import Bars

    kind, asked = "pdf" if pdf else kind, {"other": other, "steps": steps}
    name = {None: "report.html", "pdf": "report.pdf"}.get(kind, "figures")
    path = output or _beside(store, name)
    with _stoppable("No report was written."), Bars() as bars:
        if kind:
            size = reports.read_width(width)
            written = reports.write_figures(store, path, kind, width=size, **asked, progress=bars)
        else:
            written = reports.write_report(store, path, **asked, progress=bars)
    print(f"report  {written}")


@app.command()
def export(
    store: StorePath,
    to: Annotated[str, typer.Option(help="tensorboard, parquet, netcdf, npz or treescope.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option(help="The file, or the folder for TensorBoard; beside the store by default.")
    ] = None,
) -> None:
    """Write a store in the format of another tool."""
    from actigrad.export import export as write
    from actigrad.progress import Bars

    with _stoppable("Nothing was exported."), Bars() as bars:
        written = write(store, to, output, progress=bars)
    print(f"export  {written}")


@app.command()
def explore(
    stores: Annotated[
        list[Path], typer.Argument(metavar="STORE…", help="One store, or several to compare.", show_default=False)
    ],
    address: Annotated[
        str, typer.Option(help="Where to listen. Any but this machine's own needs the token that is printed.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
) -> None:
    """Open the page on which to look at a store, also while it is being written. Reads only; Ctrl-C ends it."""
    gc.disable()  # until the stores are open: to look for garbage in what is imported takes a quarter of that time
    from actigrad.explorer.server import Explorer

    explorer = Explorer(stores, address=address, port=port)
    print(f"explore  {explorer.link}   (Ctrl-C ends it)", flush=True)
    if browser:
        webbrowser.open(explorer.link)
    explorer.run()


@app.command()
def levels(
    store: StorePath,
    order: Annotated[
        list[str], typer.Option(help="natural, score, score:METRIC, peak:step, peak:sample, selectivity, similarity.")
    ] = ["natural"],  # noqa: B006 - typer reads it
    seed: Annotated[int, typer.Option(help="Of similarity.")] = 0,
) -> None:
    """Store orders of neurons, and levels of what is large in each order, so that views of it are fast."""
    with _stoppable("Levels that were made stay; run it again."):
        made = _write_levels(store, order, seed)
    print(f"{made} matri{'x' if made == 1 else 'ces'} got levels")


@app.command()
def schema() -> None:
    """Print the config's JSON Schema, so that editors complete it."""
    from actigrad.config.records import json_schema

    print(json.dumps(json_schema(), indent=2))


def _load(config: Path, overrides: list[str], *, planned: bool = True) -> Any:
    from actigrad.config.files import load_config, locate

    checked = load_config(config, overrides)
    from actigrad.runs.job import load  # after the check: JAX takes seconds to import, and a typo should not

    try:
        job = load(checked)
        if planned:
            job.plans()  # a pattern that matches nothing is told here, with its line
        return job
    except ConfigError as error:
        raise locate(error, config, overrides) from error


@contextmanager
def _stoppable(state: str) -> Iterator[None]:
    """Ctrl-C ends in a sentence about what is on the disk."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\nStopped. {state}", file=sys.stderr)
        raise typer.Exit(130) from None


def _beside(store: str, name: str) -> Path:
    """Where a report goes when nobody says; for a URL, where the command runs."""
    return Path(name) if "://" in store else Path(store).parent / name


def _write_levels(store: Any, orders: Sequence[str], seed: int) -> int:
    from actigrad.pictures.catalogue import write_levels

    return write_levels(store, orders, seed=seed, told=lambda what: print(f"levels  {what}", file=sys.stderr))


def _write_report(store: Any, path: Path, bars: Any) -> Path:
    from actigrad.report import write_report

    return write_report(store, path, progress=bars)


def main() -> None:
    """The console script: errors on purpose are sentences, not tracebacks."""
    try:
        app()
    except ActigradError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


if __name__ == "__main__":
    main()
