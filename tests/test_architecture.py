"""The shape of the package: what is public, what an import costs, where the walls stand, and that no rule is empty."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import actigrad

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "pipeline/actigrad").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HEAVY = {"jax", "flax", "xarray", "zarr", "dask", "holoviews", "datashader", "bokeh", "panel", "matplotlib", "numba"}
PRESENTATION = HEAVY - {"jax", "flax"}


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh Python holds after running `code`."""
    told = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{told}"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def text_files() -> list[Path]:
    """What is in the repository, by git."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and Path(name).suffix not in {".png", ".lock"}]


def test_what_is_visible_is_what_is_meant():
    assert actigrad.__all__ == [
        "ActigradError",
        "CaptureCallback",
        "Frame",
        "Recorder",
        "Site",
        "capture",
        "check",
        "gradient_times_activation",
        "integrated_gradients",
        "list_sites",
        "measure_memory",
        "observe",
        "open_store",
        "patch",
        "recompute_between",
        "sample_gradient_norms",
        "smooth_gradients",
        "tap",
    ]
    assert set(actigrad.__all__) <= set(dir(actigrad))
    for name in actigrad.__all__:
        value = getattr(actigrad, name)
        assert value.__name__ == name
        assert value.__doc__


def test_a_name_that_does_not_exist_is_told_with_those_that_do():
    with pytest.raises(AttributeError, match=r"no attribute 'captrue'; it has ActigradError, .*capture"):
        actigrad.captrue  # noqa: B018


def test_no_module_hides_a_public_name():
    modules = {path.stem for path in SOURCES} | {path.parent.name for path in SOURCES}
    assert not modules & set(actigrad.__all__)


def test_importing_the_package_and_its_command_line_loads_nothing_heavy():
    assert loaded_by("import actigrad, actigrad.cli, actigrad.config.files, actigrad.progress") & HEAVY == set()


def test_a_view_opens_without_jax():
    assert (
        loaded_by("import actigrad.report, actigrad.views, actigrad.storage.store") & {"jax", "jaxlib", "flax"} == set()
    )


def test_capture_runs_without_storage_and_pictures():
    code = "import actigrad; actigrad.capture, actigrad.observe, actigrad.list_sites, actigrad.tap; import flax.nnx"
    extra = loaded_by(code) - loaded_by("import jax, flax.nnx")
    assert extra & PRESENTATION == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT / "pipeline").as_posix())
def test_every_module_says_what_it_is_and_uses_public_jax(path):
    text = path.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, "a module opens with the problem, the idea, the smallest example, the limits"
    assert not re.search(r"\bjax\._src\b|\bjaxlib\b", text), "only public JAX: private modules move"


def test_every_path_in_the_project_file_exists():
    tool = PROJECT["tool"]
    paths = [
        *tool["ruff"]["src"], *tool["pyright"]["include"], *tool["pytest"]["ini_options"]["testpaths"],
        *tool["hatch"]["build"]["targets"]["wheel"]["packages"], *PROJECT["project"]["license-files"],
        PROJECT["project"]["readme"],
        *(re.sub(r"/\*$", "", one) for one in tool["ruff"]["lint"]["per-file-ignores"]),
    ]  # fmt: skip
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_walls_name_every_module():
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    pictures, capture = (one for one in contracts if one["type"] == "forbidden")
    both = {"cli", "runs", "zoo", "__init__"}
    named = {name.removeprefix("actigrad.") for wall in (pictures, capture) for name in wall["source_modules"]}
    children = {path.relative_to(ROOT / "pipeline/actigrad").parts[0].removesuffix(".py") for path in SOURCES}
    assert named | both == children
    assert not named & both


def test_what_a_wall_ignores_is_imported_for_the_type_checker_alone():
    for contract in PROJECT["tool"]["importlinter"]["contracts"]:
        for importer, imported in (line.split(" -> ") for line in contract.get("ignore_imports", [])):
            text = (ROOT / f"pipeline/{importer.replace('.', '/')}.py").read_text(encoding="utf-8")
            lines = [line for line in text.splitlines() if re.search(rf"\b(from|import) {re.escape(imported)}\b", line)]
            block = text.partition("if TYPE_CHECKING:\n")[2].partition("\n\n")[0].splitlines()
            assert lines, f"{importer} does not import {imported}: the exception can go"
            assert set(lines) <= set(block)


def test_nothing_tells_of_a_machine_or_an_index():
    # A letter in brackets keeps each pattern from matching itself, so this file is looked at as well.
    places = re.compile(
        r"/(?:[h]ome|[r]oot|[w]ork|[U]sers)/\w|https?://\S*/[s]imple\b|--(?:extra-)?[i]ndex.url|--[f]ind.links"
    )
    told = [
        f"{path.relative_to(ROOT)}: {found.group()}"
        for path in [*text_files(), ROOT / "requirements.lock"]
        if path.exists()
        for found in places.finditer(path.read_text(encoding="utf-8"))
    ]
    assert told == []


def test_every_pinned_package_has_hashes():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pinned = text.replace("\\\n", "").splitlines()
    assert len(pinned) > 100
    assert [line for line in pinned if not re.match(r"\S+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)] == []


def test_the_shape_checker_is_awake():
    """A canary: with the hook off, what signatures promise is unchecked, and nothing else would say so."""
    from actigrad.pictures.order import score_order

    score_order(np.ones(3), np.zeros(3, bool))
    with pytest.raises(jaxtyping.TypeCheckError, match="neuron=3"):
        score_order(np.ones(3), np.zeros(4, bool))
    with pytest.raises(jaxtyping.TypeCheckError, match="dead"):
        score_order(np.ones(3), np.zeros(3))


def test_implicit_promotion_raises_here():
    with pytest.raises(jax.dtypes.TypePromotionError):  # type: ignore[attr-defined]
        _ = jnp.ones(2, jnp.int32) + jnp.ones(2, jnp.float32)
    with pytest.raises(ValueError, match="rank_promotion"):
        _ = jnp.ones((2, 2)) + jnp.ones(2)
    assert len(jax.devices()) == 8
