"""Every key knows its line, and what is wrong with the text is found at once."""

import re
from io import StringIO

import hypothesis.strategies as st
import pytest
from hypothesis import given
from ruamel.yaml import YAML

from actigrad.config.yamlfile import read_yaml
from actigrad.errors import ConfigError


@pytest.fixture
def read(tmp_path):
    def read(text, *overrides):
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return read_yaml(path, overrides)

    return read


def test_keys_and_list_items_know_their_lines(read):
    document = read("model: {a: 1}\n\ncapture:\n  - keep: full\n  - {keep: summary,\n     sites: x}\n")
    line = {location: int(where.rpartition(":")[2]) for location, where in document.origins.items()}
    assert line == {
        ("model",): 1, ("model", "a"): 1, ("capture",): 3, ("capture", 0): 4, ("capture", 0, "keep"): 4,
        ("capture", 1): 5, ("capture", 1, "keep"): 5, ("capture", 1, "sites"): 6,
    }  # fmt: skip


def test_a_key_that_does_not_stand_in_the_file_has_the_line_of_the_one_around_it(read):
    document = read("seed: 1\nmodel:\n  options: {}\n")
    assert document.where(("model", "options", "width")).endswith(":3")
    assert document.where(("store", "path")).endswith(":1")


def test_the_tree_is_plain_yaml_12(read):
    tree = read("a: 1e-3\nb: yes\nc: 0o10\nd: [1, 2.5, null, true]\ne: &x {f: text}\ng: *x\n").tree
    assert tree == {"a": 1e-3, "b": "yes", "c": 8, "d": [1, 2.5, None, True], "e": {"f": "text"}, "g": {"f": "text"}}
    assert {type(value) for value in tree.values()} <= {float, str, int, list, dict}
    assert [type(value) for value in read("a: [1, 2.5, null, true, &x false]\n").tree["a"]] == [
        int, float, type(None), bool, bool,
    ]  # fmt: skip


def test_each_duplicate_key_is_told_once_with_both_lines(read):
    problems = read("seed: 0\nmodel: {a: 1}\nseed: 1\nmodel:\n  a: 2\n  b: 3\n").problems
    assert [problem.key for problem in problems] == ["seed", "model"]
    assert problems[0].where.endswith("run.yaml:3")
    assert "run.yaml:1; keep one of the two" in problems[0].hint


@given(value=st.recursive(st.none() | st.booleans() | st.integers() | st.text("ab c:{}[],'\"#-", max_size=8),
                          lambda inner: st.lists(inner, max_size=3), max_leaves=5))  # fmt: skip
def test_an_override_is_the_value_that_yaml_reads(tmp_path_factory, value):
    text = StringIO()
    YAML(typ="safe", pure=True).dump({"v": value}, text)
    path = tmp_path_factory.mktemp("yaml") / "run.yaml"
    path.write_text(text.getvalue(), encoding="utf-8")
    assert read_yaml(path).tree == {"v": value}


def test_overrides_reach_into_lists_and_make_missing_mappings(read):
    document = read("capture: [{keep: summary}]\n", "capture.0.keep=full", " train.options.rate =1e-3", "capture=[1]")
    assert document.tree == {"capture": [1], "train": {"options": {"rate": 1e-3}}}
    assert document.where(("train", "options", "rate")) == "--set  train.options.rate =1e-3"


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("junk", "found 'junk', expected key.path=value"),
        ("=3", "found '=3', expected key.path=value"),
        ("capture.1.keep=full", "no place for 1.*at capture stands a list of 1"),
        ("capture.1=full", "no place for 1.*at capture stands a list of 1"),
        ("capture.keep=full", "no place for 'keep'.*at capture stands a list of 1"),
        ("seed.x=1", "no place for 'x'.*at seed stands 0"),
        ("0=1", "no place for 0.*at the top stands a mapping"),
        ("seed=[1, 2", "found '\\[1, 2', expected a value in YAML"),
    ],
)
def test_an_override_that_fits_nowhere_says_what_stands_there(read, override, found):
    (problem,) = read("seed: 0\ncapture: [{keep: full}]\n", override).problems
    assert problem.where == f"--set {override}"
    assert re.search(found, str(problem), re.DOTALL), str(problem)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2\n", r"run.yaml:2\n.*no YAML.*\n.*expected ',' or '\]'"),
        ("- a\n- b\n", r"run.yaml:1\n.*found \['a', 'b'\], expected a mapping"),
        ("", "found None, expected a mapping"),
    ],
)
def test_text_that_is_no_mapping_is_an_error_with_its_line(read, text, message):
    with pytest.raises(ConfigError, match=message):
        read(text)


def test_a_file_that_cannot_be_read_is_an_error_with_its_name(tmp_path):
    with pytest.raises(ConfigError, match=r"nothere.yaml\n.*No such file"):
        read_yaml(tmp_path / "nothere.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(ConfigError, match=r"latin.yaml\n.*expected text in UTF-8"):
        read_yaml(tmp_path / "latin.yaml")
