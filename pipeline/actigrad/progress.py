"""Progress: bars with rates and time left, and the tables that the command line prints."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from actigrad.sites import Site, Work

if TYPE_CHECKING:
    from actigrad.engine.checking import Report
    from actigrad.runs.estimate import Estimate, MemoryEstimate, Probed
    from actigrad.runs.run import Result
    from actigrad.storage.verification import Verification


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

    def counting(self, task: str, unit: str) -> Callable[[int, int], None]:
        """A function of (done, total) that moves a bar of its own."""
        handle = None

        def move(done: int, total: int) -> None:
            nonlocal handle
            handle = self.start(task, total, unit) if handle is None else handle
            self._bars.update(handle, completed=done)

        return move

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


def print_sites(sites: Sequence[Site]) -> None:
    """A table of sites."""
    console = Console(soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("site", "kind", "dims", "shape", "dtype"):
        table.add_column(name, overflow="fold")
    table.add_column("bytes a sample", justify="right")
    for site in sites:
        samples = dict(zip(site.dims, site.shape, strict=True)).get("sample", 1)
        note = f"{site.dtype} (no gradient: {site.missing})" if site.missing else site.dtype
        table.add_row(
            Text(site.path),
            site.kind,
            ", ".join(site.dims),
            describe_sizes(site),
            note,
            decimal(site.nbytes // max(1, samples)),
        )
    console.print(table)
    print(f"{len(sites)} sites; shapes and bytes are those of one sample")


def print_estimate(estimate: "Estimate", probed: "Probed | None" = None) -> None:
    """What a run will need; with a probe, after compression and of time too."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("site", "kind", "kept"):
        table.add_column(name, overflow="fold")
    for name in ("bytes a sample", "bytes stored", *(["compressed"] if probed else [])):
        table.add_column(name, justify="right")
    for cost in estimate.sites:
        after = [decimal(probed.stored[cost.path])] if probed else []
        sizes = (decimal(cost.sample_bytes), decimal(cost.stored_bytes), *after)
        table.add_row(Text(cost.path), cost.kind, cost.kept, *sizes)
    Console(soft_wrap=True).print(table)
    if probed:
        seconds = probed.batch_seconds * probed.batches
        print_facts({
            "after compression": f"{decimal(probed.total)}, as the first batch compresses",
            "a batch takes": f"{probed.batch_seconds:.3g} s to capture, {probed.batches:,} of them {seconds:.3g} s",
        })  # fmt: skip
    print_facts(
        {
            "stored in all": f"{decimal(estimate.stored_bytes)} before compression",
            "passing the loop": decimal(estimate.captured_bytes),
            "free disk": "unknown" if estimate.free_bytes is None else decimal(estimate.free_bytes),
            "fits": "unknown" if estimate.free_bytes is None else "yes" if estimate.fits else "no",
        }
    )


def print_memory(memory: "MemoryEstimate", estimate: "Estimate") -> None:
    """What the captured step takes on its device, what would make it smaller, and how many samples fit."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"memory of {memory.samples} samples", overflow="fold")
    for name in ("arguments", "results", "temporary", "in all", "saves"):
        table.add_column(name, justify="right")
    whole = next(iter(memory.variants.values())).total
    for name, one in memory.variants.items():
        saved = whole - one.total
        sizes = (one.arguments, one.results, one.temporary, one.total)
        table.add_row(name, *map(decimal, sizes), f"{saved / whole:.0%}" if saved > 0 else "")
    print()
    Console(soft_wrap=True).print(table)
    for cost in sorted(estimate.sites, key=lambda cost: -cost.returned_bytes)[:5]:
        if cost.returned_bytes:
            print(f"  {cost.path}: {decimal(cost.returned_bytes)} of the results; a summary alone would save them")
    samples, needed = memory.largest
    fits = f"{samples:,} samples, {decimal(needed.total)}" if needed else "not even one sample"
    print_facts({"device": f"{memory.device}, {decimal(memory.available)} free", "the largest batch that fits": fits})


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


def print_verification(store: str, found: "Verification") -> None:
    """What is wrong and where, or that nothing is; and what to do next."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("array", "where", "what"):
        table.add_column(name, overflow="fold")
    for damage in found.damages:
        spans = "its metadata" if damage.region is None else ", ".join(f"{a}:{b}" for a, b in damage.region)
        table.add_row(Text(damage.array), spans, Text(damage.what))
    if found.damages:
        Console(soft_wrap=True).print(table)
    state = "complete" if found.complete else "incomplete"
    print(f"{store} is {state}; {found.chunks} chunks read, {decimal(found.bytes)}, {len(found.damages)} wrong")
    if found.damages:
        print(f"capture them again: actigrad repair {store}")
    elif not found.complete:
        print("finish it: actigrad run CONFIG --resume, or a Recorder on the same path")


def print_tree(sites: Sequence[Site], rest: Work, traced: int) -> None:
    """The module tree: of each module its parameters and FLOPs with all within, of each site what happens on the way.

    Args:
        sites: all of them, in forward order.
        rest: the work after the last sites, up to the loss.
        traced: how many samples the FLOPs are of.
    """
    by_path = {tuple(site.path.split("/")): site for site in sites}
    below: dict[tuple[str, ...], list[Work]] = {(): [rest]}
    for parts, site in by_path.items():
        for end in range(len(parts) + 1):
            below.setdefault(parts[:end], []).append(site.work)
    cost: Any = lambda parts: _describe_work(below[parts], traced)
    root = Tree(Text("model", style="bold").append(f"  {cost(())}", style="dim"))
    branches: dict[tuple[str, ...], Tree] = {(): root}
    for parts in by_path:
        for end in range(1, len(parts) + 1):
            if (here := parts[:end]) not in branches:
                label = Text(here[-1], style="bold")
                site = by_path.get(here)
                if site:
                    label.append(f"  {site.kind} {describe_sizes(site)}")
                label.append(f"  {cost(here)}", style="dim")
                if site:
                    label.append(f"  → {', '.join(site.feeds) or 'nothing'}", style="cyan")
                    label.append(_describe_operations(site.work), style="dim")
                branches[here] = branches[here[:-1]].add(label)
    label = Text("loss", style="bold").append(f"  {_describe_work([rest], traced)}", style="dim")
    root.add(label.append(_describe_operations(rest), style="dim"))
    Console(width=None if sys.stdout.isatty() else 120).print(root)
    print("parameters and FLOPs of a module hold those of the sites within; FLOPs are of one sample's forward pass")


def describe_sizes(site: Site) -> str:
    """`8×8×32`, or `scalar`."""
    return "×".join(map(str, site.sample_shape)) or "scalar"


def _describe_work(works: Sequence[Work], traced: int) -> str:
    parameters, flops = sum(work.parameters for work in works), sum(work.flops for work in works) / traced
    return ", ".join([f"{parameters:,} parameters"] * bool(parameters) + [f"{_short(flops)}FLOPs"])


def _describe_operations(work: Work) -> str:
    names = [name if times == 1 else f"{name} ×{times}" for name, times in work.operations]
    return f"\n{', '.join(names)}" if names else ""


def _short(value: float) -> str:
    """Three digits and a prefix.

    >>> _short(1536.0), _short(18_907_136.0), _short(0.0)
    ('1.54 k', '18.9 M', '0 ')
    """
    for prefix in ("", "k", "M", "G", "T"):
        if value < 999.5:
            return f"{value:.3g} {prefix}"
        value /= 1000
    return f"{value:.3g} P"
