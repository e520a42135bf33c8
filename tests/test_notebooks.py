"""The notebooks run, with their size knob turned down; what is shipped is in sync and without outputs."""

import shutil
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_notebook_runs_with_its_knob_turned_down(path, tmp_path, digits_store):
    text = path.read_text()
    assert text.count("QUICK = False") == 1
    notebook = jupytext.reads(text.replace("QUICK = False", "QUICK = True"), fmt="py:percent")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    shutil.copytree(digits_store, tmp_path / "runs/digits_quick.zarr")
    done = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error"]
    assert not [output.text for output in shown if output.get("name") == "stderr"]
    pictures = [o for o in shown if "application/vnd.holoviews_exec.v0+json" in o.get("data", {})]
    assert len(pictures) >= text.count("\nviews.")
    assert [str(p.name) for p in (tmp_path / "runs").iterdir()] == ["digits_quick.zarr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_paired_notebook_has_the_same_cells_and_no_outputs(path):
    paired = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    script = jupytext.read(path)
    assert [cell.source for cell in paired.cells] == [cell.source for cell in script.cells]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in paired.cells)
