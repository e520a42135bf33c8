"""Every shipped config opens with its command line and what to expect, and does what it says there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray

from actigrad.config.files import load_config
from actigrad.config.references import resolve

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def expectation(path):
    """The two lines that open a config: its command, and what to expect."""
    command, expect = path.read_text(encoding="utf-8").splitlines()[:2]
    return command, expect


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_opens_with_its_command_and_what_to_expect(path):
    command, expect = expectation(path)
    assert command == f"# scripts/run configs/{path.name}"
    assert expect.startswith("# expect: ")
    config = load_config(path)
    assert config.report is not None
    assert str(config.report.path) in expect


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_reference_of_a_config_resolves(path):
    config = load_config(path)
    references = [
        config.model.factory,
        config.data.factory,
        config.loss,
        *([config.train.factory] if config.train else []),
    ]
    for reference in references:
        assert callable(resolve(reference, key="", where=path.name))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """`configs/digits.yaml`, run whole in a process of its own, as a user would."""
    folder = tmp_path_factory.mktemp("whole")
    command = [sys.executable, "-m", "actigrad.cli", "run", str(ROOT / "configs/digits.yaml")]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_digits_run_as_their_config_says(finished):
    folder, done = finished
    told = dict(re.findall(r"^(\w+) +(.*)$", done.stdout, re.MULTILINE))
    _, expect = expectation(ROOT / "configs/digits.yaml")
    assert f"{told['sites']} sites at {told['steps'].split()[0]} recorded steps" in expect
    assert (told["samples"], told["steps"], told["report"]) == ("1797", "20 recorded", "runs/digits/report.html")
    assert (folder / told["report"]).stat().st_size < 15e6
    assert "Warning" not in done.stderr


def test_the_digits_reach_the_accuracy_that_their_config_tells(finished):
    samples = xarray.open_datatree(finished[0] / "runs/digits/digits.zarr", engine="zarr")["samples"].to_dataset()
    held_out = samples.isel(sample=np.flatnonzero(samples["split"].values == 1), step=-1)
    assert held_out.sizes["sample"] == 359
    assert float((held_out["prediction"] == held_out["label"]).mean()) >= 0.97


def test_every_value_of_the_finished_store_was_written(finished):
    tree = xarray.open_datatree(finished[0] / "runs/digits/digits.zarr", engine="zarr")
    assert tree.attrs["complete"]
    floats = [
        (node.path, name, one)
        for node in tree.subtree
        for name, one in node.data_vars.items()
        if one.dtype.kind == "f" and one.dims != ("bin",)
    ]
    assert len(floats) > 60
    assert [(path, name) for path, name, one in floats if not np.isfinite(one.values).all()] == []
