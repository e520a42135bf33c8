"""A config is read whole or refused whole, with every problem, its line and the nearest valid name."""

import json
import re
from pathlib import Path

import jsonschema
import pydantic
import pytest

from actigrad.config.files import load_config, locate
from actigrad.config.records import CaptureRule, Config, json_schema
from actigrad.config.yamlfile import read_yaml
from actigrad.errors import ConfigError, Problem

MINIMAL = """
model: {factory: "package.module:build"}
data: {factory: "package.module:load"}
loss: "package.module:loss"
store: {path: run.zarr}
"""

# Each line that is wrong says after its `#` what must be told about it.
WRONG = """\
model: {factroy: "m:build", checkpoint: 3}  # is 'factroy' meant to be 'factory'? # found 3, expected text or a list
data:
  factory: "m:load"
  batch_size: '256'                   # data.batch_size # found '256', expected a whole number
  samples: -3                         # found -3, expected a number of at least 1 or a list
  batch-size: 3                       # found the key 'batch-size' # did you mean 'batch_size'?
loss: "no.reference"                  # found 'no.reference', expected a reference 'module:name'
train:                                # train.record_every # found nothing
  factory: "m:train"
  steps: 4e2                          # found 400.0, expected a whole number
capture:
  - {keep: ful, dtype: float16}       # capture.0.keep # did you mean 'full'? # found 'float16'
  - sites: 3                          # capture.1.sites # found 3, expected a list
    quantities: [activation, gradeint]   # capture.1.quantities.1 # did you mean 'gradient'?
  - quantities: []                    # found [], expected at least one entry
  - nonsense                          # capture.3 # found 'nonsense', expected a mapping
parameters: 3                         # found 3, expected a mapping
reprot: {path: r.html}                # found the key 'reprot' # did you mean 'report'?
devices: 4                            # devices # expected null
seed: 1.5                             # found 1.5, expected a whole number
store: {path: 7}                      # found 7, expected a path
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems_of(*arguments):
    with pytest.raises(ConfigError) as caught:
        load_config(*arguments)
    return caught.value.problems


def test_everything_but_model_data_loss_and_store_has_a_default(write):
    config = load_config(write(MINIMAL))
    assert config.steps == (0,)
    assert config.capture == (CaptureRule(sites=("**",), quantities=("activation", "gradient"), keep="summary"),)
    assert config.store.path == Path("run.zarr")
    assert (config.train, config.report, config.seed, config.data.batch_size) == (None, None, 0, 256)


def test_one_pattern_may_stand_for_a_list_of_one(write):
    config = load_config(write(MINIMAL + "capture: [{sites: a, exclude: [b, c]}]\n"))
    assert (config.capture[0].sites, config.capture[0].exclude) == (("a",), ("b", "c"))


@pytest.mark.parametrize(
    ("steps", "every", "recorded"), [(10, 5, (5, 10)), (11, 5, (5, 10)), (3, 1, (1, 2, 3)), (4, 4, (4,))]
)
def test_the_recorded_steps_are_multiples_that_the_training_reaches(write, steps, every, recorded):
    text = f'train: {{factory: "m:train", steps: {steps}, record_every: {every}}}\n'
    assert load_config(write(MINIMAL + text)).steps == recorded


def test_every_problem_is_told_at_once_each_on_its_line(write):
    problems = problems_of(write(WRONG))
    for number, line in enumerate(WRONG.splitlines(), 1):
        told = [str(problem) for problem in problems if problem.where.endswith(f"run.yaml:{number}")]
        for wanted in re.findall(r"# ([^#]*[^# ])", line):
            assert any(wanted in one for one in told), f"line {number}: {wanted!r} is not in {told}"
        assert bool(told) == ("# " in line), f"line {number} should tell nothing, but told {told}"
    assert len(problems) == 20


def test_problems_come_in_the_order_of_the_file(write):
    lines = [int(problem.where.rpartition(":")[2]) for problem in problems_of(write(WRONG))]
    assert lines == sorted(lines)


def test_duplicate_keys_are_told_beside_other_problems(write):
    problems = problems_of(write(MINIMAL + "seed: x\nseed: 0\n"))
    assert [(problem.key, problem.expected) for problem in problems] == [
        ("seed", "a whole number"),
        ("seed", "each key once"),
    ]


def test_overrides_win_and_their_problems_name_the_override(write):
    path = write(MINIMAL)
    assert load_config(path, ["data.batch_size=7", "seed=3"]).data.batch_size == 7
    (problem,) = problems_of(path, ["data.batch_size=many"])
    assert (problem.where, problem.value) == ("--set data.batch_size=many", "'many'")
    assert len(problems_of(path, ["junk", "train.stps=3"])) == 5


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        ("[]", "found [], expected a whole number or at least one entry"),
        ("[3, -1]", "found -1, expected a number of at least 0"),
    ],
)
def test_a_list_of_samples_is_one_of_indices(write, samples, told):
    (problem,) = problems_of(write(MINIMAL), [f"data.samples={samples}"])
    assert told in str(problem)


def test_a_step_that_is_never_recorded_is_refused(write):
    (problem,) = problems_of(write(MINIMAL + 'train:\n  factory: "m:t"\n  steps: 3\n  record_every: 4\n'))
    assert problem.where.endswith(":9")
    assert "found 4, expected at most train.steps, which is 3" in str(problem)


def test_problems_found_later_get_their_line(write):
    path = write(MINIMAL)
    found = locate(ConfigError(Problem("loss", "x", "y", "the config")), path, ["data.factory=m:x"])
    assert found.problems[0].where == f"{path}:4"
    later = ConfigError(Problem("data.factory", "x", "y", "the config"))
    assert locate(later, path, ["data.factory=m:x"]).problems[0].where == "--set data.factory=m:x"


def test_configs_are_frozen_values(write):
    config = load_config(write(MINIMAL))
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.seed = 1  # type: ignore[misc]
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_the_json_schema_accepts_the_shipped_configs_and_refuses_a_typo(root):
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for path in (root / "configs").glob("*.yaml"):
        tree = json.loads(json.dumps(read_yaml(path).tree))
        assert list(validator.iter_errors(tree)) == []
        assert list(validator.iter_errors({**tree, "reprot": {}})) != []


def test_every_key_of_the_schema_is_described():
    schema = json_schema()
    bare = [
        f"{name}.{key}"
        for name, record in schema["$defs"].items()
        for key, about in record["properties"].items()
        if "description" not in about
    ]
    assert bare == []
