"""Messages tell the value, the expectation, the place and the cure."""

import pytest

from actigrad.errors import (
    ActigradError,
    CaptureError,
    ConfigError,
    NoSuchSite,
    Problem,
    StoreError,
    ViewError,
    did_you_mean,
    nearest,
)


def test_every_error_is_an_actigrad_error_and_a_missing_site_is_a_capture_error():
    for kind in (ConfigError, CaptureError, NoSuchSite, StoreError, ViewError):
        assert issubclass(kind, ActigradError)
    assert issubclass(NoSuchSite, CaptureError)


def test_a_problem_prints_place_key_value_expectation_and_cure():
    problem = Problem("capture.0.keep", "'ful'", "'summary' or 'full'", "run.yaml:9", "did you mean 'full'?")
    assert str(problem) == (
        "  run.yaml:9: capture.0.keep\n      found 'ful', expected 'summary' or 'full'\n      did you mean 'full'?"
    )


def test_a_problem_of_the_whole_file_prints_no_key():
    assert str(Problem("", "nothing", "a file", "run.yaml")) == "  run.yaml\n      found nothing, expected a file"


def test_a_config_error_counts_and_prints_all_of_its_problems():
    one = Problem("seed", "1.5", "a whole number", "run.yaml:3")
    assert str(ConfigError(one)).startswith("1 problem in the config; nothing was run or written:\n  run.yaml:3: seed")
    two = ConfigError([one, one])
    assert two.problems == (one, one)
    assert str(two).startswith("2 problems")
    assert str(two).count("run.yaml:3") == 2


@pytest.mark.parametrize(
    ("name", "expected"), [("head", ["head", "head/0"]), ("zzz", []), ("conv", ["conv1"]), ("coal", [])]
)
def test_nearest_names_come_best_first_and_strangers_do_not_come(name, expected):
    assert nearest(name, ["conv1", "head/0", "head"]) == expected


def test_did_you_mean_is_silent_when_nothing_is_near():
    assert did_you_mean("xyzzy", ["keep", "steps"]) == ""
    assert did_you_mean("stps", ["keep", "steps"]) == "did you mean 'steps'?"
