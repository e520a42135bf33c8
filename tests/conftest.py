"""A strict world for every test: what JAX only does silently, and what a library only warns of, is an error here.

Set before JAX is imported: eight CPU devices, no accelerator. Then: implicit dtype and rank promotion raise, every
shape and type that a signature promises is checked at run time (jaxtyping and beartype), every warning is an error but
for those below. `ACTIGRAD_HYPOTHESIS=thorough` looks for counter-examples ten times as long.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("KERAS_BACKEND", "jax")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # XLA compiles a program once for all workers and all that they start: half of the time of a small run is compiling.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled = tempfile.mkdtemp(prefix="actigrad-compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)

# Before the hook: what is imported while it works on a module is looked up by another name, and compiled anew.
import flax.nnx  # noqa: F401
import holoviews  # noqa: F401
import xarray  # noqa: F401
import zarr  # noqa: F401
from jaxtyping import install_import_hook

install_import_hook("actigrad", "beartype.beartype")

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("quick", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=500)
hypothesis.settings.load_profile(os.environ.get("ACTIGRAD_HYPOTHESIS", "quick"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def digits_store(tmp_path_factory, root) -> Path:
    """A small run of the digits: 64 samples at steps 2 and 4, what the shipped config keeps. Do not write."""
    return _made_once(tmp_path_factory, "digits", lambda store: _run_digits(root, store))


@pytest.fixture(scope="session")
def decoder_store(tmp_path_factory) -> Path:
    """A decoder of three scanned layers: 24 samples at steps 2 and 4, everything kept whole. Do not write."""
    return _made_once(tmp_path_factory, "decoder", _run_decoder)


def _made_once(tmp_path_factory, name: str, make: Callable[[Path], None]) -> Path:
    """A store made once for all workers, behind a lock: compiling it takes longer than most tests."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    shared.mkdir(exist_ok=True)
    store, done = shared / f"{name}.zarr", shared / "done"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(store)
            done.touch()
    return store


def _run_digits(root: Path, store: Path) -> None:
    from actigrad.config.files import load_config

    small = ["data.samples=64", "data.batch_size=32", "model.options.width=8", "train.steps=4", "train.record_every=2"]
    _run(load_config(root / "configs/digits.yaml", [*small, f"store.path={store}"]))


def _run_decoder(store: Path) -> None:
    from actigrad.config.records import Config

    zoo = "actigrad.zoo.decoder"
    _run(Config.model_validate({
        "model": {"factory": f"{zoo}:build", "options": {"layers": 3, "width": 8, "heads": 2}},
        "data": {"factory": f"{zoo}:load", "options": {"length": 6, "samples": 32}, "batch_size": 8, "samples": 24},
        "loss": f"{zoo}:loss",
        "train": {"factory": f"{zoo}:train", "options": {"batch_size": 8}, "steps": 4, "record_every": 2},
        "capture": [{"sites": ["**"], "keep": "full", "steps": "all"}],
        "parameters": {"keep": "full"},
        "store": {"path": str(store)},
    }))  # fmt: skip


def _run(config: Any) -> None:
    from actigrad.runs.job import load
    from actigrad.runs.run import run

    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
        run(load(config), overwrite=True)
