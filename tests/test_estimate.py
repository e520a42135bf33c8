"""Estimates: what a run is told to need is what it then takes."""

import jax
import pytest

from actigrad.config.files import load_config
from actigrad.runs.estimate import _available_bytes, estimate, estimate_memory, probe
from actigrad.runs.job import load
from actigrad.storage.names import site_group
from actigrad.storage.store import open_store

SMALL = ["data.samples=64", "data.batch_size=32", "model.options.width=8", "train.steps=4", "train.record_every=2"]


@pytest.fixture(scope="module")
def job(root):
    return load(load_config(root / "configs/digits.yaml", SMALL))


def test_the_bytes_are_those_of_the_store_that_is_then_written(job, digits_store):
    tree = open_store(digits_store)
    stored = sum(array.nbytes for node in tree.subtree for array in node.to_dataset(inherit=False).data_vars.values())
    coords = sum(node.to_dataset(inherit=False).coords[c].nbytes for node in tree.subtree for c in node.coords)
    assert stored <= estimate(job).stored_bytes <= stored + coords
    assert [cost.path for cost in estimate(job).sites] == [site.path for site in job.sites]


def test_what_passes_the_loop_is_both_quantities_of_all_samples_at_all_recorded_steps(job):
    found = estimate(job)
    assert found.sites[0].sample_bytes == 4 * 8 * 8 * 8
    assert found.captured_bytes == 2 * sum(cost.sample_bytes for cost in found.sites) * 64 * 2


def test_a_device_has_what_nobody_uses_of_it_and_a_cpu_what_the_machine_has():
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 100, "bytes_in_use": 30}

    assert _available_bytes(Device()) == 70
    assert _available_bytes(jax.devices("cpu")[0]) > 2**20


def test_what_a_summary_would_save_is_two_bytes_a_value_of_both_quantities(job):
    conv = estimate(job).sites[0]
    assert conv.kept == "summary, whole activation and gradient"
    assert conv.returned_bytes == 2 * 2 * 32 * 8 * 8 * 8


def test_memory_tells_what_each_way_out_saves_and_how_many_samples_fit(job):
    found = estimate_memory(job)
    whole, summaries = found.variants["as configured"], found.variants["summaries only"]
    returned = sum(cost.returned_bytes for cost in estimate(job).sites)
    assert abs(whole.results - summaries.results - returned) <= 0.01 * returned
    assert list(found.variants) == ["as configured", "summaries only", "recomputing inside modules"]
    assert (found.device, found.samples) == (jax.devices()[0].device_kind, 32)
    samples, needed = found.largest
    assert samples == 64  # all of the data: memory is not what limits here
    assert whole.total < needed.total < found.available


def test_casting_is_offered_where_something_is_kept_in_float32(root):
    config = load_config(root / "configs/digits.yaml", [*SMALL, "capture=[{sites: head/hidden, keep: full}]"])
    variants = estimate_memory(load(config)).variants
    saved = variants["as configured"].results - variants["whole arrays in bfloat16"].results
    assert saved == 2 * 2 * 32 * 32


def test_a_probe_tells_what_the_store_then_takes_and_how_long_a_batch_is(job, digits_store):
    before, probed = estimate(job), probe(job)
    for cost in before.sites:
        files = [file for file in (digits_store / site_group(cost.path) / "full").rglob("c/*/**/*") if file.is_file()]
        on_disk = sum(file.stat().st_size for file in files)
        whole = 2 * 64 * cost.sample_bytes if files else 0  # both quantities at the last step
        assert on_disk < 0.95 * whole or not files
        assert probed.stored[cost.path] == pytest.approx(cost.stored_bytes - whole + on_disk, rel=0.1), cost.path
    assert before.stored_bytes - probed.total == sum(
        cost.stored_bytes - probed.stored[cost.path] for cost in before.sites
    )
    assert probed.batches == 2 * 2
    assert 0 < probed.batch_seconds < 60
