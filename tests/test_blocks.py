"""Blocks of neurons that `keep: levels` keeps are the finest level that the whole arrays would have got."""

import shutil
import sys
from typing import Any

import holoviews as hv
import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from actigrad import views
from actigrad.config.records import Config
from actigrad.errors import ViewError
from actigrad.pictures import matrices, tiles
from actigrad.pictures.catalogue import write_levels
from actigrad.pictures.lazy import blocks_source, sample_source
from actigrad.pictures.levels import build_levels
from actigrad.pictures.matrices import open_matrix
from actigrad.pictures.raster import rasterise
from actigrad.runs.estimate import estimate
from actigrad.runs.job import load
from actigrad.runs.repair import repair
from actigrad.runs.run import run
from actigrad.sites import Site
from actigrad.storage import blocks, grid
from actigrad.storage.blocks import block_counts, block_size
from actigrad.storage.create import consolidate
from actigrad.storage.store import open_store, read_sites
from actigrad.storage.verification import verify
from test_cells import brute_force
from test_run import Stopped, stop_after

MODEL = """
import flax.nnx as nnx, jax, jax.numpy as jnp, numpy as np

class Block(nnx.Module):
    def __init__(self, *, rngs):
        self.dense = nnx.Linear(37, 37, rngs=rngs)
    def __call__(self, x):
        return x + jnp.tanh(self.dense(x))

class Net(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Linear(4, 37, rngs=rngs)
        make = nnx.split_rngs(splits=2)(nnx.vmap(lambda rngs: Block(rngs=rngs), in_axes=(0,), out_axes=0))
        self.layers = make(rngs)
        self.out = nnx.Linear(37, 2, rngs=rngs)
    def __call__(self, x):
        run = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return self.out(run(self.stem(x), self.layers).mean(axis=1))

def build(*, seed):
    return Net(nnx.Rngs(seed))

def load():
    x = np.random.default_rng(0).normal(size=(22, 3, 4)).astype(np.float32)
    x[5, 1, 2], x[7] = np.inf, 0
    return {"x": x, "label": np.arange(22, dtype=np.int32) % 3}

def loss(apply, params, batch):
    return jnp.square(apply(params, batch["x"])).sum(axis=1)

def train(loss, params, data, *, steps, seed):
    for step in range(1, steps + 1):
        params = jax.tree.map(lambda p: 0.9 * p, params)
        yield step, params
"""
FIELDS = ("extreme", "neuron", "mean", "nonfinite")


def config(path):
    """Whole arrays of both quantities at the last of two steps, and blocks at both; batches of 4 of 22 samples."""
    return Config.model_validate({
        "model": {"factory": "blocks_model:build"}, "data": {"factory": "blocks_model:load", "batch_size": 4},
        "loss": "blocks_model:loss", "train": {"factory": "blocks_model:train", "steps": 2, "record_every": 1},
        "capture": [{"keep": "full"}, {"keep": "levels", "steps": "all"}],
        "inputs": {"keep": "none"}, "parameters": {"keep": "none"}, "store": {"path": str(path)},
    })  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory):
    """A model of its own, and limits so small that its sites have blocks of four neurons, in many segments."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "blocks_model.py").write_text(MODEL)
    sys.path.insert(0, str(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "VALUES", 8)
        patch.setattr(blocks, "BLOCKS", 8)
        patch.setattr(grid, "SEGMENT_BYTES", 1)
        yield
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    store = tmp_path_factory.mktemp("made") / "run.zarr"
    run(load(config(store)))
    return store


@pytest.fixture
def crumbs(monkeypatch):
    """Limits so small that little matrices have levels."""
    monkeypatch.setattr(matrices, "SMALL", 10)
    monkeypatch.setattr(tiles, "SMALL", 64)
    build = build_levels
    monkeypatch.setattr(matrices, "build_levels", lambda *a, **k: build(*a, **k, finest=4, coarsest=4))


def files_of(store):
    return {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*") if p.is_file() and "/c/" in str(p)}


def site_of(tree, path):
    return next(site for site in read_sites(tree) if site.path == path)


def whole(tree, path, quantity):
    """(neuron, sample, value) of the last step."""
    array = tree[f"sites/{path}/full"][quantity].isel(step=-1).transpose("neuron", "sample", ...).values
    return array.reshape(*array.shape[:2], -1)


def kept(tree, path, quantity, step):
    group = tree[f"sites/{path}/levels/natural/{quantity}/samples"]
    return {name: group[name].isel(step=step).values for name in FIELDS}


def assert_cells(found, expected, exact):
    for name, values in expected.items():
        close = 0 if exact or name != "mean" else 1e-6
        np.testing.assert_allclose(found[name], values, rtol=close, atol=close, err_msg=name)


@pytest.mark.parametrize("quantity", ["activation", "gradient"])
@pytest.mark.parametrize("path", ["stem", "layers/dense", "layers"])
def test_what_the_loop_stores_is_what_brute_force_makes_of_the_whole_array(path, quantity, made):
    tree = open_store(made)
    values = whole(tree, path, quantity)
    ids = [np.arange(n) for n in values.shape[:2]]
    expected = brute_force(values, (4, 1), *ids)
    first = 4 * np.arange(len(expected["row"]))[:, None]
    expected = {name: expected[name].T for name in ("extreme", "mean", "nonfinite")} | {
        "neuron": np.where(expected["row"] < 0, -1, expected["row"] - first).T
    }
    assert_cells(kept(tree, path, quantity, 1), expected, exact=path == "stem")
    assert not np.array_equal(kept(tree, path, quantity, 0)["extreme"], expected["extreme"])


def test_a_site_of_few_values_is_kept_whole_instead(made):
    group = open_store(made)["sites/out"]
    assert group["full"]["step"].values.tolist() == [1, 2]
    assert "levels" not in group.children


def test_blocks_stand_for_enough_values_to_be_a_fraction_of_the_whole_array(monkeypatch):
    monkeypatch.setattr(blocks, "VALUES", 64)
    monkeypatch.setattr(blocks, "BLOCKS", 64)
    sizes = {(10**6,): 64, (4096,): None, (4097,): 64, (10, 10, 64): 1, (4, 2048): 16, (2, 2048): None, (63, 512): 4}
    for shape, size in sizes.items():
        dims = ("sample", *("y", "x")[: len(shape) - 1], "neuron")
        site = Site("a", (8, *shape), "float32", dims)
        assert block_size(site) == size
        if size:
            assert sum(block_counts(site)) == np.prod(shape)
            assert blocks.BLOCK_BYTES * len(block_counts(site)) < 4 * np.prod(shape) / 16


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(made, tmp_path, monkeypatch):
    job = load(config(tmp_path / "stopped.zarr"))
    with monkeypatch.context() as patch:
        stop_after(patch, 8)
        with pytest.raises(Stopped):
            run(job)
    result = run(job, resume=True)
    assert result.resumed == 1
    assert files_of(tmp_path / "stopped.zarr") == files_of(made)


def test_the_plan_counts_their_bytes(made):
    job = load(config(made))
    cost = next(one for one in estimate(job).sites if one.path == "layers/dense")
    assert cost.kept == "summary, levels of activation and gradient, whole activation and gradient"
    arrays = {name: spec for name, spec in job.template().arrays.items() if name.startswith("sites/layers/dense/")}
    assert cost.stored_bytes == sum(spec.nbytes for spec in arrays.values())
    assert sum(spec.nbytes for name, spec in arrays.items() if name.endswith(FIELDS)) == 2 * 2 * 22 * 10 * 13


def test_damage_is_found_and_captured_again(made, tmp_path):
    store = shutil.copytree(made, tmp_path / "own.zarr")
    chunk = next((store / "sites/layers/dense/levels/natural/gradient/samples/extreme/c/0").rglob("*/0"))
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert [damage.array for damage in verify(store).damages] == [
        "sites/layers/dense/levels/natural/gradient/samples/extreme"
    ]
    assert repair(store).steps == (1,)
    assert files_of(store) == files_of(made)


@pytest.mark.parametrize("quantity", ["activation", "gradient"])
@pytest.mark.parametrize("path", ["stem", "layers/dense"])
def test_coarser_levels_are_those_of_the_whole_array(path, quantity, made, crumbs):
    tree = open_store(made)
    groups = []
    for source_of in (blocks_source, sample_source):
        groups.append(zarr.create_group(MemoryStore(), zarr_format=3))
        found: Any = source_of(tree, site_of(tree, path), quantity, 2)
        build_levels(groups[-1], found[0], finest=1, coarsest=2)
    common = set(groups[0].group_keys()) & set(groups[1].group_keys())
    assert {"16x1", "16x4", "4x4"} <= common
    for name in common:
        ours, theirs = ({key: one[...] for key, one in group[name].arrays()} for group in groups)
        for key in theirs:
            close = 1e-6 if key == "mean" else 0
            np.testing.assert_allclose(ours[key], theirs[key], rtol=close, atol=close, err_msg=f"{name} {key}")


@pytest.mark.parametrize("levels", [False, True])
@pytest.mark.parametrize("samples", ["label", "natural"])
def test_any_window_is_seen_down_to_a_block_of_neurons(samples, levels, made, tmp_path, crumbs):
    store = shutil.copytree(made, tmp_path / "own.zarr")
    shutil.rmtree(store / "sites/stem/full")  # as if it had not been kept
    consolidate(store)
    if levels:
        assert write_levels(store, sites="stem") == 6  # by step, at both steps by sample, of two quantities
    tree = open_store(store)
    site = site_of(tree, "stem")
    shown = open_matrix(tree, site, "gradient", columns="sample", step=2, samples=samples)
    assert shown.step == 2
    assert (len(shown.matrix.levels) > 1) == levels or samples == "natural"
    values = whole(open_store(made), "stem", "gradient")[:, shown.columns]
    random = np.random.default_rng(0)
    for _ in range(40):
        window = tuple(tuple(sorted(random.integers(0, n + 1, 2).tolist())) for n in values.shape[:2])
        view = rasterise(shown.matrix, window, (5, 7))
        assert view.factors[0] % 4 == 0
        assert all(n <= p for n, p in zip(view.extreme.shape, (5, 7), strict=True))
        ends = [s + f * n for s, f, n in zip(view.start, view.factors, view.extreme.shape, strict=True)]
        y, x = (slice(s, e) for s, e in zip(view.start, ends, strict=True))
        if view.extreme.size:
            expected = brute_force(values[y, x], view.factors, np.arange(37)[y], shown.columns[x])
            assert_cells({name: getattr(view, name) for name in expected}, expected, exact=False)


def test_a_heatmap_tells_what_a_cell_is_and_refuses_other_orders(made, tmp_path, crumbs):
    store = shutil.copytree(made, tmp_path / "own.zarr")
    told = []
    write_levels(store, ["natural", "score"], sites="stem", told=told.append)
    assert "stem: activation by sample-1, score: blocks of neurons are in natural order" in told
    picture = views.heatmap(store, "stem", step=1, dynamic=False, pixels=(40, 40))
    (image,) = picture.traverse(lambda one: one, [hv.Image])
    told = hv.Store.lookup_options("bokeh", image, "plot").kwargs["title"].replace("\n", " ")
    assert (
        "the signed extreme of 4 neurons × 1 sample, of neurons the finest that was kept; neurons in natural order"
        in told
    )
    live = views.heatmap(store, "stem", step=1, samples="natural").traverse(lambda one: one, [hv.DynamicMap])[0]
    live.streams[0].event(x_range=(2.5, 4.5), y_range=(7.5, 8.5))
    (image,) = live[()].traverse(lambda one: one, [hv.Image])
    assert image.dimension_values("value", flat=False).shape == (1, 2)
    assert set(image.dimension_values("its neuron")) <= {8, 9, 10, 11}
    with pytest.raises(ViewError, match=r"'stem' blocks of 4 neurons.*order='natural'"):
        views.heatmap(store, "stem", step=1, order="score", dynamic=False)
    views.heatmap(store, "stem", step=2, order="score", dynamic=False)  # there it was kept whole


def test_a_picture_without_levels_that_would_not_fit_into_memory_is_refused(made, monkeypatch):
    monkeypatch.setattr(matrices, "HELD", 100)
    with pytest.raises(ViewError, match=r"'stem' has 37 neurons, 22 samples, too many.*actigrad levels"):
        views.heatmap(made, "stem", step=1, dynamic=False)
