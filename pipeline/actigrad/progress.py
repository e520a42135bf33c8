"""Progress: bars with rates and time left, and the tables that the command line prints."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from actigrad.sites import Site

if TYPE_CHECKING:
    from actigrad.checking import Report
    from actigrad.run import Estimate, Result


class _Rate(ProgressColumn):
    """Units a second, in words."""

    def render(self, task: Task) -> Text:
        """Blank until there is something to divide by."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f} {task.fields['unit']}s/s" if speed else "")


class Bars:
    """Rich progress bars under the names that `run.Progress` asks for; a context manager."""

    def __init__(self):
        columns = [
            TextColumn("{task.description:<8}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
        ]
        self._bars = Progress(*columns, console=Console(stderr=True))

    def __enter__(self) -> "Bars":
        """Nothing is drawn before the first task."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing; the bars stay on the screen."""
        if self._bars.live.is_started:
            self._bars.stop()

    def start(self, task: str, total: int, unit: str) -> Any:
        """A new bar."""
        self._bars.start()
        return self._bars.add_task(task, total=total, unit=unit)

    def advance(self, handle: Any, n: int = 1) -> None:
        """`n` units are done."""
        self._bars.advance(handle, n)


def print_result(result: "Result", report: Path | None) -> None:
    """The closing summary of a run."""
    facts: dict[str, Any] = {
        "sites": result.sites,
        "samples": result.samples,
        "steps": f"{result.steps} recorded" + (f", {result.resumed} of them before" if result.resumed else ""),
        "stored": decimal(result.bytes),
        "seconds": f"{result.seconds:.1f}",
        "store": result.store,
        "report": report or "none (the config has no report.path)",
    }
    print_facts(facts)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Names and values, one a line."""
    width = max(map(len, facts))
    for name, value in facts.items():
        if name.startswith("bytes"):
            value = decimal(value)
        elif isinstance(value, Mapping):
            value = ", ".join(f"{key} {one}" for key, one in value.items())
        print(f"{name:<{width}}  {value}")


def print_sites(sites: Sequence[Site], *, tree: bool) -> None:
    """A table of sites, or the module tree with what each site feeds."""
    console = Console(soft_wrap=True)
    if tree:
        console.print(_tree(sites))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("site", "kind", "dims", "shape", "dtype"):
        table.add_column(name, overflow="fold")
    table.add_column("bytes a sample", justify="right")
    for site in sites:
        samples = dict(zip(site.dims, site.shape, strict=True)).get("sample", 1)
        shape = "×".join(map(str, site.sample_shape)) or "scalar"
        note = f"{site.dtype} (no gradient: {site.missing})" if site.missing else site.dtype
        table.add_row(
            Text(site.path), site.kind, ", ".join(site.dims), shape, note, decimal(site.nbytes // max(1, samples))
        )
    console.print(table)
    print(f"{len(sites)} sites; shapes and bytes are those of one sample")


def print_estimate(estimate: "Estimate") -> None:
    """What a run will need."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("site", "kind", "kept"):
        table.add_column(name, overflow="fold")
    for name in ("bytes a sample", "bytes stored"):
        table.add_column(name, justify="right")
    for cost in estimate.sites:
        table.add_row(Text(cost.path), cost.kind, cost.kept, decimal(cost.sample_bytes), decimal(cost.stored_bytes))
    Console(soft_wrap=True).print(table)
    print_facts(
        {
            "stored in all": f"{decimal(estimate.stored_bytes)} before compression",
            "passing the loop": decimal(estimate.captured_bytes),
            "free disk": decimal(estimate.free_bytes),
            "fits": "yes" if estimate.stored_bytes <= estimate.free_bytes else "no",
        }
    )


def print_report(report: "Report") -> None:
    """The verdicts of a check: a row a site, a column a question; below it what is not a plain yes."""
    words = {True: "[green]yes[/green]", None: "[yellow]open[/yellow]", False: "[bold red]NO[/bold red]"}
    questions = ("outputs", "forward", "nudge", "cut")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("where", overflow="fold")
    for question in questions:
        table.add_column(question)
    found = {(verdict.where, verdict.question): verdict for verdict in report.verdicts}
    for where in dict.fromkeys(verdict.where for verdict in report.verdicts):
        cells = [words[found[where, question].ok] if (where, question) in found else "" for question in questions]
        table.add_row(Text(where), *cells)
    Console(soft_wrap=True).print(table)
    for verdict in report.verdicts:
        if verdict.ok is not True:
            numbers = f"found {verdict.found:.6g}, expected {verdict.expected:.6g}"
            print(f"{verdict.question} at {verdict.where}: {numbers}; {verdict.note}")
    for path, reason in report.missing.items():
        print(f"no gradient at {path}: {reason}")
    if report.unreached:
        print(f"no derivative reaches the loss from: {', '.join(report.unreached)}")
    print("capture is right here" if report.ok else "capture is WRONG here, or the model's own derivative rules are")


def _tree(sites: Sequence[Site]) -> Tree:
    root = Tree("[bold]model[/bold]")
    branches: dict[tuple[str, ...], Tree] = {(): root}
    by_path = {tuple(site.path.split("/")): site for site in sites}
    for parts in by_path:
        for end in range(1, len(parts) + 1):
            if parts[:end] not in branches:
                label = Text(parts[end - 1], style="bold")
                if site := by_path.get(parts[:end]):
                    shape = "×".join(map(str, site.sample_shape)) or "scalar"
                    label.append(f"  {site.kind} {shape}", style="dim").append(
                        f"  → {', '.join(site.feeds) or 'nothing'}", style="cyan"
                    )
                branches[parts[:end]] = branches[parts[: end - 1]].add(label)
    return root
