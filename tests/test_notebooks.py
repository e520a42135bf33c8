"""The notebooks run, with their size knob turned down; what is shipped is in sync and without outputs."""

import shutil
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

from actigrad import views
from actigrad.zoo import encoder

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
QUICK_STORES = ["digits_quick.zarr", "decoder_quick.zarr", "encoder_quick.zarr"]


def need_weights():
    try:
        encoder.find_files()
    except ModuleNotFoundError as error:
        pytest.skip(f"NO REAL WEIGHTS: {error}")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_notebook_runs_with_its_knob_turned_down(path, tmp_path, request):
    text = path.read_text()
    assert text.count("QUICK = False") == 1
    if "encoder.build()" in text:
        need_weights()
    if "runs/digits_quick.zarr" in text:  # made once for all tests
        shutil.copytree(request.getfixturevalue("digits_store"), tmp_path / "runs/digits_quick.zarr")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    notebook = jupytext.reads(text.replace("QUICK = False", "QUICK = True"), fmt="py:percent")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    done = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error"]
    assert not [output.text for output in shown if output.get("name") == "stderr"]
    pictures = [o for o in shown if "application/vnd.holoviews_exec.v0+json" in o.get("data", {})]
    assert len(pictures) >= text.count("\nviews.")
    made = [one.name for one in tmp_path.glob("runs/*") if one.suffix == ".zarr"]
    assert made == [name for name in QUICK_STORES if f"runs/{name}" in text]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_paired_notebook_has_the_same_cells_and_no_outputs(path):
    paired = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    script = jupytext.read(path)
    assert [cell.source for cell in paired.cells] == [cell.source for cell in script.cells]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in paired.cells)


def test_every_view_has_its_place_in_the_gallery():
    text = (ROOT / "notebooks/gallery.py").read_text()
    missing = [
        name for name in views.__all__ if name != "save" and f"\n## `{name}`" not in text.replace("# ## ", "## ")
    ]
    assert not missing
    assert all(f"\nviews.{name}(" in text for name in views.__all__ if name != "save")
