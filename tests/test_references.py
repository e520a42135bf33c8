"""`module:name` becomes a function, or an error that shows what is near."""

import math

import pytest

from actigrad.config.references import resolve
from actigrad.errors import ConfigError


def problem_of(reference):
    with pytest.raises(ConfigError) as caught:
        resolve(reference, key="loss", where="run.yaml:3")
    (problem,) = caught.value.problems
    assert (problem.key, problem.where) == ("loss", "run.yaml:3")
    return str(problem)


def test_a_reference_is_the_function_itself_nested_names_too():
    assert resolve("math:sqrt", key="loss", where="") is math.sqrt
    assert resolve("pathlib:Path.cwd", key="loss", where="")() is not None


def test_a_module_in_the_current_directory_is_found(tmp_path, monkeypatch):
    (tmp_path / "my_own_model.py").write_text("def build(): return 41\n")
    monkeypatch.chdir(tmp_path)
    assert resolve("my_own_model:build", key="model.factory", where="")() == 41


def test_a_wrong_name_shows_the_nearest_in_the_module():
    assert "did you mean 'sqrt'" in problem_of("math:sqrtt")


def test_a_wrong_module_shows_its_nearest_sibling():
    assert "did you mean 'actigrad.zoo.digits'" in problem_of("actigrad.zoo.digit:load")
    assert "there is no module 'nosuchmodulehere'" in problem_of("nosuchmodulehere:load")
    assert "did you mean 'actigrad'" in problem_of("actigrda:observe")


def test_a_module_that_needs_what_is_not_installed_names_that(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import notinstalledhere\n")
    monkeypatch.chdir(tmp_path)
    assert "there is no module 'notinstalledhere'" in problem_of("needs_more:build")


def test_a_module_that_fails_tells_with_what(tmp_path, monkeypatch):
    (tmp_path / "falls_over.py").write_text("raise ValueError('my own words')\n")
    monkeypatch.chdir(tmp_path)
    assert "raised ValueError: my own words" in problem_of("falls_over:build")


def test_what_is_no_function_is_told_with_its_type():
    assert "found 'math:pi', which is a float, expected a function" in problem_of("math:pi")
