"""Models that others wrote promote types as they like: here JAX is as it comes."""

import os
from importlib.metadata import version

# Everything here is compiled once and run once.
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

import jax
import pytest


@pytest.fixture(autouse=True)
def jax_as_it_comes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def pytest_report_header():
    names = ["flax", "equinox", "dm-haiku", "keras", "keras-hub", "transformers", "torch", "equimo", "google-tunix"]
    names += ["recurrentgemma", "dalle-mini", "levanter", "haliax"]
    return "models of: " + ", ".join(f"{name} {version(name)}" for name in names)
