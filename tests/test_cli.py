"""Each command says what it does, ends with the right code, and tells errors as sentences."""

import json
import re
import sys

import pytest
import xarray

from actigrad import cli
from actigrad.engine.checking import Report, Verdict
from actigrad.engine.memory import Memory
from actigrad.progress import _short, print_estimate, print_memory, print_sites
from actigrad.runs.estimate import Estimate, MemoryEstimate, SiteCost
from actigrad.sites import Site

OWN = """
import os
import flax.nnx as nnx, jax, jax.numpy as jnp, numpy as np

class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, 4, rngs=rngs)
        self.out = nnx.Linear(4, 2, rngs=rngs)
    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))

def build(*, seed):
    return Net(nnx.Rngs(seed))

def load(*, features=3):
    random = np.random.default_rng(0)
    x = random.normal(size=(10, features)).astype(np.float32)
    return {"x": x, "label": (x[:, 0] > 0).astype(np.int32)}

def loss(apply, params, batch):
    logits = apply(params, batch["x"])
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], axis=1)[:, 0]

def train(loss, params, data, *, steps, seed):
    for step in range(1, steps + 1):
        gradients = jax.grad(lambda params: loss(params, data).mean())(params)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)
        if os.environ.get("STOP_AT") == str(step):
            raise KeyboardInterrupt
        yield step, params
"""
CONFIG = """\
model:  {factory: "cli_model:build"}
data:   {factory: "cli_model:load", batch_size: 4}
loss:   "cli_model:loss"
train:  {factory: "cli_model:train", steps: 4, record_every: 2}
capture:
  - {sites: "**", keep: full}
store:  {path: out/run.zarr}
report: {path: out/report.html}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's own folder: a config and the Python file beside it, nothing installed."""
    (tmp_path / "cli_model.py").write_text(OWN)
    (tmp_path / "run.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delitem(sys.modules, "cli_model", raising=False)
    return tmp_path


@pytest.fixture
def call(monkeypatch, capsys):
    """Call the command line; returns (exit code, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["actigrad", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


def lines(text):
    """`name  value` lines as a mapping."""
    return dict(re.findall(r"^(\S[^\n]*?)  +(\S.*)$", text, re.MULTILINE))


def test_help_reads_like_a_page(call):
    code, out, _ = call("--help")
    assert code == 0
    assert "actigrad run configs/digits.yaml" in out
    assert re.search(r"\n +actigrad sites configs/digits.yaml +what can be captured *\n", out)
    for command in ("run", "sites", "plan", "check", "info", "levels", "report", "schema"):
        assert re.search(rf"│ {command} +\S", out)


def test_run_ends_with_a_summary_and_its_store_opens_with_xarray_alone(folder, call):
    code, out, err = call("run", "run.yaml")
    assert code == 0, err
    told = lines(out)
    assert (told["sites"], told["samples"], told["steps"]) == ("2", "10", "2 recorded")
    assert (told["store"], told["report"]) == ("out/run.zarr", "out/report.html")
    assert re.match(r"[\d.]+ \w?B|\d+ bytes", told["stored"])
    assert float(told["seconds"]) > 0
    tree = xarray.open_datatree(folder / "out/run.zarr", engine="zarr")
    assert tree["sites/hidden/full/activation"].sizes["neuron"] == 4
    assert (folder / "out/report.html").stat().st_size > 10_000
    assert re.search(r"steps +━+ 2/2 +[\d.,]+ steps/s", err), "a bar with its rate"


def test_a_store_that_is_there_is_kept_unless_told_otherwise(folder, call):
    assert call("run", "run.yaml", "--set", "report=null")[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*")}
    code, _, err = call("run", "run.yaml", "--set", "report=null")
    assert code == 1
    assert err.startswith("StoreError: the store out/run.zarr exists (complete)")
    assert "--overwrite" in err
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*")}
    assert call("run", "run.yaml", "--set", "report=null", "--overwrite")[0] == 0


def test_a_stopped_run_says_what_is_there_and_resume_finishes_it(folder, call, monkeypatch):
    monkeypatch.setenv("STOP_AT", "3")
    code, out, err = call("run", "run.yaml", "--overwrite")
    assert (code, out) == (130, "")
    assert err.rstrip().endswith(
        "Stopped. out/run.zarr may be incomplete. Finish it: the same command with --resume in place of --overwrite."
    )
    assert (
        "no" in lines(call("info", "out/run.zarr")[1])["complete"].lower()
        or not xarray.open_datatree(folder / "out/run.zarr", engine="zarr", consolidated=False).attrs["complete"]
    )
    monkeypatch.delenv("STOP_AT")
    code, out, err = call("run", "run.yaml", "--resume")
    assert code == 0, err
    assert lines(out)["steps"] == "2 recorded, 1 of them before"


def test_resume_and_overwrite_exclude_each_other(folder, call):
    code, _, err = call("run", "run.yaml", "--resume", "--overwrite")
    assert code == 2
    assert "exclude each other" in err


def test_sites_is_a_table_of_one_sample_and_writes_nothing(folder, call):
    code, out, _ = call("sites", "run.yaml")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert rows[1] == ["hidden", "Linear", "sample,", "neuron", "4", "float32", "16", "bytes"]
    assert rows[2][0] == "out"
    assert not (folder / "out").exists()
    assert call("sites", "run.yaml", "--set", "capture.0.sites=nothing")[0] == 0  # one looks here for what to write


def test_a_site_without_a_gradient_says_why_in_the_table(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    print_sites([Site("which", (8,), "int32", ("sample",), missing="its dtype is int32")])
    assert "int32 (no gradient: its dtype is int32)" in capsys.readouterr().out


def test_sites_as_a_tree_tells_what_each_costs_and_feeds(folder, call):
    _, out, _ = call("sites", "run.yaml", "--tree")
    assert re.search(r"hidden  Linear 4  16 parameters, 28 FLOPs  → out\n.* dot_general, add\n", out)
    assert re.search(r"out  Linear 2  10 parameters, \d+ FLOPs  → loss\n", out)
    assert out.startswith("model  26 parameters, ")
    assert re.search(r"loss  \d+ FLOPs\n", out)


@pytest.mark.parametrize(("value", "told"), [(999.4, "999 "), (999.6, "1 k"), (1234.5, "1.23 k"), (2e15, "2 P")])
def test_counts_have_three_digits_and_a_prefix(value, told):
    assert _short(value) == told


def test_plan_tells_the_bytes_and_writes_nothing(folder, call):
    code, out, _ = call("plan", "run.yaml")
    assert code == 0
    assert "free disk" in out
    assert lines(out)["fits"] == "yes"
    assert not (folder / "out").exists()


def test_plan_says_where_the_disk_is_too_small_and_what_would_save_memory(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    cost = lambda path, returned: SiteCost(path, "Conv", ("sample",), (8,), "float32", 4, "summary", 10, returned)
    needed = Estimate((cost("small", 10), cost("none", 0), cost("large", 2000)), 30, 20, 40)
    print_estimate(needed)
    assert lines(capsys.readouterr().out)["fits"] == "no"
    variants = {"as configured": Memory(50, 40, 10, 0), "summaries only": Memory(50, 10, 15, 0)}
    print_memory(MemoryEstimate(8, variants, 1000, "cpu", (0, None)), needed)
    out = capsys.readouterr().out
    assert re.search(r"as configured .*100 bytes *\n", out)
    assert re.search(r"summaries only .*75 bytes +25%", out)
    assert re.findall(r"  (\w+): .* a summary alone", out) == ["large", "small"]
    assert lines(out)["the largest batch that fits"] == "not even one sample"


def test_plan_with_memory_compiles_and_tells_the_largest_batch(folder, call):
    code, out, _ = call("plan", "run.yaml", "--memory")
    assert code == 0
    assert re.search(r"as configured( +\d[\d.]* (bytes|kB)){4}", out)
    assert re.search(r"the largest batch that fits +\d+ samples", out)


def test_plan_with_a_probe_tells_compressed_bytes_and_the_time(folder, call):
    code, out, _ = call("plan", "run.yaml", "--probe")
    assert code == 0
    assert re.search(r"bytes stored +compressed *\n", out)
    assert re.search(r"after compression +[\d.]+ (bytes|kB), as the first batch compresses", out)
    assert re.search(r"a batch takes +[\d.e-]+ s to capture, [\d,]+ of them [\d.e-]+ s", out)
    assert not (folder / "out").exists()


def test_info_and_report_read_a_store(digits_store, tmp_path, call):
    code, out, _ = call("info", digits_store)
    assert code == 0
    assert (lines(out)["sites"], lines(out)["samples"]) == ("14", "64")
    output = tmp_path / "elsewhere.html"
    code, out, _ = call("report", digits_store, "--output", output)
    assert (code, lines(out)["report"]) == (0, str(output))
    assert output.exists()


def test_a_report_stands_beside_its_store_unless_told_otherwise(digits_store, tmp_path, call, monkeypatch):
    written = []
    monkeypatch.setattr("actigrad.report.write_report", lambda store, path, **_: written.append(path) or path)
    assert call("report", tmp_path / "deep/run.zarr")[0] == 0
    assert written == [tmp_path / "deep/report.html"]


def test_check_verifies_the_samples_that_are_asked_for_and_ends_well(folder, call):
    code, out, _ = call("check", "run.yaml", "--samples", "3")
    assert code == 0
    assert re.search(r"hidden +yes +yes +yes\n", out)
    assert out.endswith("capture is right here\n")


def test_check_ends_with_1_where_something_is_wrong_and_tells_it(folder, call, monkeypatch):
    asked = []

    def check(loss, params, batch):
        asked.append(len(batch["x"]))
        wrong = Verdict("forward", "hidden", False, 2.0, 3.0, "relative difference 3.3e-01")
        kink = Verdict("nudge", "hidden", None, 0.0, 1.0, "a kink")
        fine = Verdict("cut", "hidden", True, 7.0, 7.0)
        return Report((wrong, kink, fine), {"which": "its dtype is int32"}, ("deadend",))

    monkeypatch.setattr("actigrad.engine.checking.check", check)
    code, out, _ = call("check", "run.yaml", "--samples", "3")
    assert (code, asked) == (1, [3])
    assert re.search(r"hidden +NO +open +yes\n", out)
    assert out.splitlines()[-5:] == [
        "forward at hidden: found 2, expected 3; relative difference 3.3e-01",
        "nudge at hidden: found 0, expected 1; a kink",
        "no gradient at which: its dtype is int32",
        "no derivative reaches the loss from: deadend",
        "capture is WRONG here, or the model's own derivative rules are",
    ]


def test_schema_is_the_config_schema_as_json(call):
    code, out, _ = call("schema")
    assert code == 0
    assert json.loads(out)["title"] == "actigrad config"


def test_a_bad_config_tells_everything_and_writes_nothing(folder, call):
    (folder / "run.yaml").write_text(CONFIG.replace("keep: full", "keep: ful") + "sed: 1\n")
    for command in ("run", "plan", "sites"):
        code, out, err = call(command, "run.yaml", "--set", "train.steps=many")
        assert (code, out) == (2, "")
        assert err.startswith("ConfigError: 3 problems in the config; nothing was run or written:\n  run.yaml:6: ")
        for told in ("did you mean 'full'?", "run.yaml:9: sed", "did you mean 'seed'?", "--set train.steps=many"):
            assert told in err
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("override", "code", "told"),
    [
        ("model.factory=cli_model:biuld", 2, "--set model.factory=cli_model:biuld: .*did you mean 'build'"),
        ("model.options.depth=3", 2, "run.yaml:1: model.factory.*raised TypeError.*depth"),
        ("data.samples=11", 2, "data.samples.*found 11, expected samples among the 10"),
        ("capture.0.sites=hiden", 2, "found 'hiden'.*The nearest of 2 sites: 'hidden'"),
        ("data.options.features=5", 1, r"CaptureError: the loss failed on a batch of the data \(x float32\[4, 5\]"),
        ("store.path=run.yaml/run.zarr", 1, "StoreError: cannot create the store"),
    ],
)
def test_bad_input_is_a_sentence_with_its_place(folder, call, override, code, told):
    found, out, err = call("run", "run.yaml", "--set", override)
    assert (found, out) == (code, "")
    assert re.search(told, err, re.DOTALL), err
    assert not (folder / "out").exists()


def test_a_store_that_is_not_there_is_told(tmp_path, call):
    for command in ("info", "report"):
        code, _, err = call(command, tmp_path / "none.zarr")
        assert code == 1
        assert "there is no store at" in err
