"""A strict world for every test: what JAX only does silently, and what a library only warns of, is an error here.

Set before JAX is imported: eight CPU devices, no accelerator. Then: implicit dtype and rank promotion raise, every
shape and type that a signature promises is checked at run time (jaxtyping and beartype), every warning is an error but
for those below. `ACTIGRAD_HYPOTHESIS=thorough` looks for counter-examples ten times as long.
"""

import fcntl
import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("KERAS_BACKEND", "jax")

from jaxtyping import install_import_hook

install_import_hook("actigrad", "beartype.beartype")

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("quick", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=500)
hypothesis.settings.load_profile(os.environ.get("ACTIGRAD_HYPOTHESIS", "quick"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def digits_store(tmp_path_factory, root) -> Path:
    """A small run of the digits: 64 samples at steps 2 and 4, everything that the shipped config keeps. Do not write.

    Made once for all workers, behind a lock: compiling it takes longer than most tests.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "digits"
    shared.mkdir(exist_ok=True)
    store, done = shared / "digits.zarr", shared / "done"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            _run_digits(root, store)
            done.touch()
    return store


def _run_digits(root: Path, store: Path) -> None:
    from actigrad.config.files import load_config
    from actigrad.runs.job import load
    from actigrad.runs.run import run

    small = ["data.samples=64", "data.batch_size=32", "model.options.width=8", "train.steps=4", "train.record_every=2"]
    config = load_config(root / "configs/digits.yaml", [*small, f"store.path={store}"])
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
        run(load(config), overwrite=True)
