"""Report: one HTML file that opens offline, from what a person should know first to the sites that matter.

    write_report("runs/digits/digits.zarr", "report.html")
    write_report("a.zarr", "a-b.html", other="b.zarr")                   # what differs between two runs
    write_report("a.zarr", "steps.html", steps=(100, 400))               # and between two steps of one
    write_figures("a.zarr", "figures", "svg", width=85)                  # the same pictures for a paper, 85 mm wide

BokehJS and all data stand in the file; it makes no request. It weighs at most `page.LIMIT` bytes whatever the store's
size: sites beyond the first `choice.SITES` are rows of a table, and pictures are drawn until the space is used, after
which their tables stand alone. Every picture has words for who does not see it and a table behind it.
"""

from pathlib import Path
from typing import Any

from actigrad.errors import StoreError
from actigrad.report.changes import compare_runs, compare_steps
from actigrad.report.overview import describe_run
from actigrad.report.page import write_page
from actigrad.report.paper import read_width, save_figures
from actigrad.report.parts import Report
from actigrad.storage.places import Where
from actigrad.storage.store import open_store

__all__ = ["make_report", "read_width", "write_figures", "write_report"]
Steps = tuple[int, int]


def write_report(
    store: Where,
    path: str | Path,
    *,
    other: Where | None = None,
    steps: Steps | None = None,
    progress: Any = None,
) -> Path:
    """Write the report of a store, of two stores, or of two steps of one; returns where it is.

    Args:
        store: the path or the URL of the store.
        path: the HTML file; replaced if it is there.
        other: another store to compare it with.
        steps: two recorded steps to compare.
        progress: as `run` takes it, or None.

    Raises:
        StoreError: when the file cannot be written.
        ViewError: when a step was not recorded, or both `other` and `steps` are given.
    """
    counting = progress.counting if progress else _silent
    report = make_report(store, other, steps, counting("reading", "place"))
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(write_page(report, counting("report", "picture")), encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"cannot write the report {path}: {error.strerror}. Give another path with --output."
        ) from error
    return path


def write_figures(
    store: Where, path: str | Path, kind: str, *, width: float | int = 170, other: Where | None = None,
    steps: Steps | None = None, progress: Any = None,
) -> Path:  # fmt: skip
    """Write the report's pictures for a paper; returns where they are.

    Args:
        store: the path or the URL of the store.
        path: the folder that is made, or for `pdf` the file.
        kind: pdf (a picture a page), png (300 dots an inch) or svg.
        width: of a picture, in millimetres.
        other: another store to compare it with.
        steps: two recorded steps to compare.
        progress: as `run` takes it, or None.

    Raises:
        StoreError: when they cannot be written.
        ViewError: for another kind, a width out of range, a step that was not recorded.
    """
    counting = progress.counting if progress else _silent
    report = make_report(store, other, steps, counting("reading", "place"))
    try:
        return save_figures(report, Path(path), kind, width, counting("figures", "picture"))
    except OSError as error:
        raise StoreError(
            f"cannot write the figures {path}: {error.strerror}. Give another path with --output."
        ) from error


def make_report(store: Where, other: Where | None, steps: Steps | None, advance: Any) -> Report:
    """Everything that is told, before it is drawn."""
    tree = open_store(store)
    if other is not None:
        return compare_runs(tree, open_store(other), (str(store), str(other)), advance, steps)
    if steps is not None:
        return compare_steps(tree, steps, advance)
    return describe_run(tree, advance)


def _silent(task: str, unit: str) -> Any:
    return lambda done, total: None
