"""Orders are permutations with a provenance; levels in a store are those of its matrices, in their orders."""

import shutil
from typing import Any

import numpy as np
import pytest
import xarray
import zarr

from actigrad import views
from actigrad.errors import StoreError, ViewError
from actigrad.metrics import METRICS
from actigrad.pictures import levels, matrices, stored, tiles
from actigrad.pictures.catalogue import find_order, make_order, save_order, write_levels
from actigrad.pictures.matrices import open_matrix
from actigrad.pictures.order import find_silent, is_permutation
from actigrad.pictures.raster import rasterise
from actigrad.pictures.similarity import similarity_order
from actigrad.runs.repair import repair
from actigrad.storage.store import open_store, read_sites
from actigrad.storage.verification import verify

NAMES = ["natural", "score", "score:mean", "peak:step", "peak:sample", "selectivity", "similarity"]


@pytest.fixture(scope="module")
def store(digits_store):
    return open_store(digits_store)


@pytest.fixture
def own(digits_store, tmp_path):
    """A copy that may be written to."""
    return shutil.copytree(digits_store, tmp_path / "own.zarr")


@pytest.fixture
def crumbs(monkeypatch):
    """Limits so small that the digits' matrices have levels."""
    monkeypatch.setattr(matrices, "SMALL", 10)
    monkeypatch.setattr(tiles, "SMALL", 64)
    build = levels.build_levels
    monkeypatch.setattr(matrices, "build_levels", lambda *a, **k: build(*a, **k, finest=4, coarsest=16))


def site_of(tree, path):
    return next(site for site in read_sites(tree) if site.path == path)


@pytest.mark.parametrize("name", NAMES[1:])
def test_every_order_is_a_permutation_the_same_each_time_with_the_silent_at_the_end(name, store):
    site = site_of(store, "head/relu")
    order, data = make_order(store, site, name)
    assert data
    assert is_permutation(order, site.shape[-1])
    np.testing.assert_array_equal(find_order(store, site, name), order)
    values = store["sites/head/relu/summary"]["activation"].values
    groups = find_silent(values[:, METRICS.index("min")].min(0), values[:, METRICS.index("max")].max(0))
    assert (np.diff(groups[order]) >= 0).all()


def test_scores_fall_and_means_of_the_preferred_label_stand_out(store):
    site = site_of(store, "head/hidden")
    rms = store["sites/head/hidden/summary"]["gradient"].values[0, METRICS.index("rms")]
    order = find_order(store, site, "score", quantity="gradient", step=2)
    assert (np.diff(rms[order]) <= 0).all()
    whole, label = store["sites/head/hidden/full"]["activation"].values[0], store["samples"]["label"].values
    means = np.stack([whole[label == one].mean(0) for one in np.unique(label)])
    assert (np.diff(means.argmax(0)[find_order(store, site, "selectivity")]) >= 0).all()


def test_neurons_that_do_alike_stand_beside_each_other_and_constant_ones_last():
    random = np.random.default_rng(0)
    kinds = random.integers(0, 12, 3000)
    profiles = random.normal(size=(12, 20))[kinds] * random.uniform(0.5, 9, (3000, 1)) + 3
    profiles += 0.1 * random.normal(size=profiles.shape)
    profiles[::100] = 2.5
    order = similarity_order(profiles.astype(np.float32), seed=1)
    assert is_permutation(order, 3000)
    assert (order[-30:] % 100 == 0).all()
    assert (np.diff(kinds[order[:-30]]) != 0).sum() < 100
    np.testing.assert_array_equal(order, similarity_order(profiles.astype(np.float32), seed=1))
    assert is_permutation(similarity_order(np.ones((5, 3), np.float32)), 5)


def test_a_saved_order_is_used_by_its_name_and_tells_where_it_comes_from(own):
    n = site_of(open_store(own), "head/hidden").shape[-1]
    mine = np.random.default_rng(0).permutation(n)
    save_order(own, "head/hidden", "mine", mine.tolist(), how="by hand", data="a look", seed=0)
    tree = xarray.open_datatree(own, engine="zarr")
    attrs = tree["sites/head/hidden/orders/mine"].attrs
    assert (attrs["how"], attrs["data"], attrs["seed"]) == ("by hand", "a look", 0)
    image = views.heatmap(own, "head/hidden", order="mine", dynamic=False, pixels=(999, 999))
    picture = next(
        one for one in image.traverse(lambda one: one) if "its neuron" in map(str, getattr(one, "vdims", []))
    )
    np.testing.assert_array_equal(picture.dimension_values("its neuron", flat=False)[:, 0], mine)


@pytest.mark.parametrize(
    ("site", "name", "order", "told"),
    [
        ("head/hiden", "mine", [0], "'head/hiden'"),
        ("head/hidden", "mine", [0, 0, 1], "3 entries, 2 of them different"),
        ("head/hidden", "natural", None, "'natural'"),
        ("head/hidden", "a/b", None, "'a/b'"),
    ],
)
def test_what_is_no_order_is_not_stored(site, name, order, told, own):
    order = range(site_of(open_store(own), "head/hidden").shape[-1]) if order is None else order
    with pytest.raises(StoreError, match=told):
        save_order(own, site, name, np.array(order), how="x")


def test_an_unknown_order_is_told_with_those_that_there_are(store, own):
    with pytest.raises(ViewError, match=r"no order 'size'; stored with site 'head/relu': none.*similarity"):
        find_order(store, site_of(store, "head/relu"), "size")
    with pytest.raises(ViewError, match="no order 'score:size'"):
        write_levels(own, ["score:size"])


@pytest.mark.usefixtures("crumbs")
def test_a_store_with_levels_shows_what_one_without_shows_and_xarray_opens_it(own, store):
    told = []
    made = write_levels(own, ["natural", "score"], sites=["head/hidden", "block1/conv"], told=told.append)
    assert made == len([line for line in told if "no order" not in line]) > 4
    assert write_levels(own, ["natural", "score"], sites=["head/hidden", "block1/conv"]) == 0
    tree = open_store(own)
    node = tree["sites/head/hidden/levels/natural/activation/sample-4"]
    assert node.attrs["multiscales"]["layout"][0]["asset"] in node.children
    random = np.random.default_rng(0)
    for path, columns in (("head/hidden", "sample"), ("block1/conv", "sample"), ("block1/conv", "step")):
        for order in ("natural", "score"):
            site = site_of(tree, path)
            rows = find_order(tree, site, order)
            ours = open_matrix(tree, site, "activation", columns=columns, order=order, rows=rows)
            bare = open_matrix(store, site, "activation", columns=columns, order=order, rows=rows)
            assert any(hasattr(level, "group") for level in ours.matrix.levels.values())
            for _ in range(2):
                window = tuple(tuple(sorted(random.integers(0, n + 1, 2).tolist())) for n in ours.matrix.shape)
                a = rasterise(ours.matrix, window, (7, 9))
                cells = zip(a.start, a.factors, a.extreme.shape, strict=True)
                covered = tuple((start, start + factor * n) for start, factor, n in cells)
                b = rasterise(bare.matrix, covered, (999, 999))
                if a.extreme.size:
                    assert np.nanmax(np.abs(a.extreme)) == np.nanmax(np.abs(b.extreme))
                    assert set(a.row[a.row >= 0]) <= set(b.row.ravel())


@pytest.mark.usefixtures("crumbs")
def test_levels_of_another_order_than_the_one_that_is_looked_at_are_not_used(own):
    write_levels(own, ["score"], sites="head/hidden")
    site = site_of(open_store(own), "head/hidden")
    n = site.shape[-1]
    save_order(own, "head/hidden", "score", np.roll(np.arange(n), 1), how="changed")
    tree = open_store(own)
    shown = open_matrix(tree, site, "activation", columns="sample", order="score", rows=find_order(tree, site, "score"))
    assert not any(hasattr(level, "group") for level in shown.matrix.levels.values())


def test_a_store_that_is_being_written_gets_no_levels(own):
    from actigrad.storage.journal import Journal

    with Journal(own), pytest.raises(StoreError, match="another process"):
        write_levels(own)


@pytest.mark.usefixtures("crumbs")
@pytest.mark.parametrize("before", [[], ["mine"]])
def test_levels_that_were_not_finished_are_no_damage_and_are_made_when_asked_for_again(before, own, monkeypatch):
    n = site_of(open_store(own), "head/hidden").shape[-1]
    save_order(own, "head/hidden", "mine", np.arange(n)[::-1], how="by hand")
    for order in before:
        write_levels(own, [order], sites="head/hidden")
    save_order(own, "head/hidden", "mine", np.roll(np.arange(n), 1), how="changed")
    write, left = stored.write_level, iter(range(2))

    def stop(*arguments, **known):
        if next(left, None) is None:
            raise KeyboardInterrupt
        write(*arguments, **known)

    with monkeypatch.context() as patched:
        patched.setattr(levels, "write_level", stop)
        with pytest.raises(KeyboardInterrupt):
            write_levels(own, ["mine"], sites="head/hidden")
    site, tree = site_of(open_store(own), "head/hidden"), open_store(own)
    rows = find_order(tree, site, "mine")
    shown = open_matrix(tree, site, "activation", columns="sample", step=4, order="mine", rows=rows)
    assert not any(hasattr(level, "group") for level in shown.matrix.levels.values())
    assert verify(own).damages == ()
    assert write_levels(own, ["mine"], sites="head/hidden") > 0
    assert verify(own).damages == ()
    assert write_levels(own, ["mine"], sites="head/hidden") == 0


@pytest.mark.usefixtures("crumbs")
def test_levels_and_orders_that_are_damaged_are_found_and_taken_out_by_repair(own):
    write_levels(own, ["natural", "score"], sites="head/hidden")
    chunk = next(own.glob("sites/head/hidden/levels/natural/activation/step/*/mean/c/0/0"))
    order = own / "sites/head/hidden/orders/score/c/0"
    for file in (chunk, order):
        content = bytearray(file.read_bytes())
        content[3] ^= 1
        file.write_bytes(content)
    told = []
    assert {damage.array.split("/")[3] for damage in verify(own).damages} == {"levels", "orders"}
    assert repair(own, told=told.append).regions == 0
    assert len([line for line in told if "taken out" in line]) == 2
    assert verify(own).damages == ()
    assert not chunk.exists()
    assert write_levels(own, ["natural", "score"], sites="head/hidden") == 1  # of the score, levels were whole


@pytest.mark.usefixtures("crumbs")
def test_levels_that_were_laid_out_in_another_way_are_made_again(own):
    made = write_levels(own, sites="head/hidden")
    path = "sites/head/hidden/levels/natural/activation/sample-4"
    group: Any = zarr.open_group(own, mode="r+", use_consolidated=False)[path]
    group.update_attributes({"version": 1})
    tree = open_store(own)
    shown = open_matrix(tree, site_of(tree, "head/hidden"), "activation", columns="sample", step=4)
    assert not any(hasattr(level, "group") for level in shown.matrix.levels.values())
    assert (made, write_levels(own, sites="head/hidden"), write_levels(own, sites="head/hidden")) == (made, 1, 0)
    again: Any = zarr.open_group(own, mode="r")[path]
    assert again.attrs["version"] > 1
    assert verify(own).damages == ()


def test_a_store_that_is_not_complete_gets_no_orders(own):
    zarr.open_group(own, mode="r+", use_consolidated=False).update_attributes({"complete": False})
    with pytest.raises(StoreError, match=r"is not complete.*--resume"):
        write_levels(own)


def test_statistics_too_many_to_hold_are_told_with_the_cure(store, monkeypatch):
    monkeypatch.setattr(matrices, "HELD", 1)
    with pytest.raises(ViewError, match="actigrad levels"):
        open_matrix(store, site_of(store, "head/hidden"), "activation", columns="step")
