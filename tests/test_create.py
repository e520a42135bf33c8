"""Creating a store: what its template says is what Zarr and xarray find, whatever the sites are called and how many."""

import hashlib
import time

import numpy as np
import pytest
import xarray
import zarr

from actigrad.config.records import Config
from actigrad.errors import StoreError
from actigrad.sites import Site
from actigrad.storage.costs import costliest
from actigrad.storage.create import check_space, compressed_share, create_store, finalize_store
from actigrad.storage.journal import Journal
from actigrad.storage.names import site_group
from actigrad.storage.places import Folder
from actigrad.storage.schema import Tensors, make_plans, make_template
from actigrad.storage.store import check_version, open_store, read_sites
from actigrad.storage.template import ArraySpec, Template
from actigrad.storage.writer import Writer

ROOT = {"actigrad_schema": 2, "versions": {"actigrad": "0.1.0"}}


def config(capture=({"sites": "**"},), **store):
    return Config.model_validate({
        "model": {"factory": "a:b"}, "data": {"factory": "a:b", "batch_size": 4}, "loss": "a:b",
        "train": {"factory": "a:b", "steps": 100, "record_every": 5},
        "capture": list(capture), "parameters": {"keep": "none"}, "store": {"path": "run.zarr", **store},
    })  # fmt: skip


def template(config, *paths, neurons=8):
    sites = [Site(path, (4, neurons), "float32", ("sample", "neuron"), "Relu", ("loss",)) for path in paths]
    return make_template(config, make_plans(config, sites), {"label": np.zeros(4, int)}, Tensors({}, {}, False))


NAMES = ["слой/层/🙂", "x" * 400, "x" * 401, "/".join(["module"] * 200), "a\tb", "..", "100%", "zarr.json", "full",
         "c/0", "back\\slash", "__init__", "", "head", "head/0"]  # fmt: skip


def test_every_name_of_a_site_has_its_own_group_that_disks_and_object_stores_take_and_comes_back(tmp_path):
    made = template(config(), *NAMES)
    create_store(tmp_path / "run.zarr", made, ROOT)
    finalize_store(tmp_path / "run.zarr")
    tree = xarray.open_datatree(tmp_path / "run.zarr", engine="zarr")
    assert sorted(site.path for site in read_sites(tree)) == sorted(NAMES)
    groups = [site_group(name) for name in NAMES]
    assert len(set(groups)) == len(NAMES)
    for name, group in zip(NAMES, groups, strict=True):
        assert tree[group].attrs["path"] == name
        assert len(group.encode()) < 800
        assert max(len(segment.encode()) for segment in group.split("/")) < 256


def test_the_files_are_those_that_zarr_itself_would_have_made(tmp_path):
    made = template(config([{"sites": "**", "keep": "full", "steps": "all"}]), "head/0")
    create_store(tmp_path / "run.zarr", made, ROOT)
    root = zarr.open_group(tmp_path / "run.zarr", mode="r")
    for name, spec in made.arrays.items():
        array = root[name]
        assert (array.shape, array.shards or array.chunks, str(array.dtype)) == (
            spec.shape,
            spec.chunks,
            spec.dtype,
        ) or (spec.dtype == "string")
        assert array.metadata.dimension_names == spec.dims
        assert dict(array.attrs) == dict(spec.attrs)
        if name in made.coords:
            assert array[...].tolist() == list(made.coords[name])
    assert dict(root.attrs) == {**ROOT, "complete": False}
    assert dict(root["sites/head/0"].attrs)["path"] == "head/0"


def test_many_steps_of_summaries_are_few_files(tmp_path):
    made = template(config(), "head")
    chunks = {name: int(np.prod([-(-s // c) for s, c in zip(spec.shape, spec.chunks, strict=True)]))
              for name, spec in made.arrays.items() if "/summary/" in name}  # fmt: skip
    assert len(made.coords["samples/step"]) == 20
    assert max(chunks.values()) == 1


def test_a_large_block_is_one_file_of_several_chunks_that_only_whole_writes_own(tmp_path):
    rows, neurons = 2048, 1024
    sizes = (1, 2 * rows, neurons), (1, rows, neurons)
    spec = ArraySpec("a/full/x", ("step", "sample", "neuron"), *sizes, inner=(1, rows // 8, neurons))
    path = tmp_path / "run.zarr"
    create_store(path, Template({}, {spec.path: spec}, {}), ROOT)
    values = np.arange(rows * neurons, dtype=np.float32).reshape(1, rows, neurons)
    with Journal(path) as journal, Writer(path, journal) as writer:
        with pytest.raises(StoreError, match="rows 0:256 of axis 1 share a chunk"):
            writer.put(spec.path, [(0, 1), (0, rows // 8), (0, neurons)], values[:, : rows // 8])
        writer.put(spec.path, [(0, 1), (rows, 2 * rows), (0, neurons)], values)
    assert [name for name in Folder(path).files("a/full/x") if "/c/" in name] == ["a/full/x/c/0/1/0"]
    array = zarr.open_group(path, mode="r")["a/full/x"]
    assert (array.chunks, array.shards) == (spec.inner, spec.chunks)
    np.testing.assert_array_equal(array[:, rows + 7], values[:, 7])
    shard = path / "a/full/x/c/0/1/0"
    for hurt in (shard.read_bytes()[:-9], shard.read_bytes()[: -(2**20)], b"\1" + shard.read_bytes()[1:]):
        shard.write_bytes(hurt)
        with pytest.raises(Exception, match=r"(?i)checksum|crc|byte|index|size"):
            _ = array[:, rows:]


def test_the_template_cuts_large_blocks_and_leaves_small_ones_whole():
    full = [{"sites": "**", "keep": "full"}]
    sites = [Site("a", (64, 65536), "float32", ("sample", "neuron"), "Relu", ("loss",))]
    base = config(full).model_copy(update={"data": config().data.model_copy(update={"batch_size": 8})})
    samples = {"label": np.zeros(64, int)}
    large = make_template(base, make_plans(base, sites), samples, Tensors({}, {}, False))
    spec = large.arrays["sites/a/full/activation"]
    assert (spec.chunks, spec.inner) == ((1, 32, 65536), (1, 4, 65536))
    assert template(config(full), "a").arrays["sites/a/full/activation"].inner is None


@pytest.mark.parametrize(
    ("asked", "codec"), [("none", "plain"), ("zstd", "sparse"), ("lz4", "rounded"), ("auto", "plain")]
)
def test_codec_and_chunk_size_are_the_configs_where_it_says(asked, codec):
    rule = [{"sites": "**", "keep": "full"}]
    spec = template(config(rule, codec=asked, chunk_bytes=32), "a").arrays["sites/a/full/activation"]
    assert spec.codec == codec
    assert spec.chunks == (1, 4, 4)  # one batch of 128 bytes is four times the aim: cut along its neurons


def test_what_a_codec_leaves_of_a_block_is_measured():
    spec = ArraySpec("a", ("sample", "neuron"), (64, 64), (64, 64), codec="sparse")
    assert compressed_share(spec, np.zeros((64, 64), np.float32)) < 0.02
    noise = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    assert 0.9 < compressed_share(spec, noise) < 1.01


def test_what_does_not_fit_names_the_three_costliest_sites_each_with_the_setting_that_shrinks_it(monkeypatch):
    rules = [{"sites": "**"}, {"sites": "often", "keep": "full", "steps": "all"}, {"sites": "once", "keep": "full"}]
    base = config(rules)
    sites = [Site(path, (4, n), "float32", ("sample", "neuron"), "Relu", ("loss",))
             for path, n in (("small", 8), ("often", 4096), ("once", 8192), ("wide", 2048))]  # fmt: skip
    made = make_template(base, make_plans(base, sites), {"label": np.zeros(4, int)}, Tensors({}, {}, False))
    costs = costliest(made)
    assert [cost.path for cost in costs] == ["once", "often", "wide"]
    assert [cost.cure.split(" ")[0] for cost in costs] == ["`keep:", "`steps:", "a"]
    assert costs[0].left == costs[0].nbytes - 2 * 4 * 8192 * 4
    assert costs[1].left == costs[1].nbytes - 2 * 4 * 4096 * 4 * 19
    monkeypatch.setattr(Folder, "free_bytes", lambda self: 1)
    told = r"(?s)needs up to .*\n  once: .*`keep: summary`.*\n  often: .*`steps: last`.*\n  wide: .*record_every"
    with pytest.raises(StoreError, match=told):
        check_space("run.zarr", made)
    monkeypatch.setattr(Folder, "free_bytes", lambda self: made.nbytes)
    check_space("run.zarr", made)


def test_a_store_of_schema_1_is_read_and_for_writing_names_what_made_it(tmp_path):
    made = template(config(), "head")
    create_store(tmp_path / "old.zarr", made, {**ROOT, "actigrad_schema": 1})
    tree = open_store(tmp_path / "old.zarr")
    assert [site.path for site in read_sites(tree)] == ["head"]
    with pytest.raises(StoreError, match=r"schema 1.*writes schema 2.*actigrad 0\.1\.0.*--overwrite"):
        check_version(tmp_path / "old.zarr", writing=True)


@pytest.mark.parametrize(("version", "cure"), [(99, "Upgrade actigrad"), (0, "attribute `versions`")])
def test_a_store_of_an_unknown_schema_says_what_to_do(tmp_path, version, cure):
    create_store(tmp_path / "x.zarr", Template({}, {}, {}), {"actigrad_schema": version})
    with pytest.raises(StoreError, match=rf"schema {version}; .* reads schema 1 and 2.*{cure}"):
        open_store(tmp_path / "x.zarr")


def test_of_a_store_that_is_being_written_what_was_committed_is_shown_and_no_more(tmp_path):
    path, made = tmp_path / "run.zarr", template(config([{"sites": "**", "keep": "full", "steps": "all"}]), "head")
    create_store(path, made, ROOT)
    activation, summary = "sites/head/full/activation", "sites/head/summary/activation_special"
    with Journal(path) as journal, Writer(path, journal) as writer:
        for at, step in enumerate((5, 10)):
            writer.put(activation, [(at, at + 1), (0, 4), (0, 8)], np.full((1, 4, 8), step, np.float32))
            writer.put(summary, [(at, at + 1), (0, 4)], np.full((1, 4), step, np.int64))
            writer.flush()
            if step == 5:
                writer.commit(step, 4)
    tree = open_store(path)
    assert not tree.attrs["complete"]
    assert (tree[activation].values[0] == 5).all()
    assert np.isnan(tree[activation].values[1:]).all()
    assert tree[summary].values[:3, 0].tolist() == [5, -1, -1]
    assert tree[summary].dtype == np.int64
    assert tree[activation].attrs["long_name"] == "activation"


@pytest.mark.heavy
def test_ten_times_the_sites_are_ten_times_the_files_and_opened_in_hardly_more_time_each(tmp_path):
    files, seconds = [], []
    for n in (500, 5000):
        path = tmp_path / f"{n}.zarr"
        made = template(config(), *(f"layer/{hashlib.md5(str(i).encode()).hexdigest()[:4]}{i}" for i in range(n)))
        create_store(path, made, ROOT)
        with Journal(path) as journal, Writer(path, journal) as writer:
            for spec in made.arrays.values():
                if spec.path not in made.coords:
                    values = np.zeros(spec.shape, spec.dtype)
                    writer.put(spec.path, [(0, size) for size in spec.shape], values)
            writer.commit(100, 4)
        finalize_store(path)
        began = time.perf_counter()
        tree = open_store(path)
        seconds.append(time.perf_counter() - began)
        assert len(read_sites(tree)) == n
        files.append(sum(file.is_file() for file in path.rglob("*")))
    print(f"files {files}, seconds to open {seconds}")
    assert files[1] <= 10 * files[0]
    assert files[1] <= 5000 * 32
    assert seconds[1] <= 20 * seconds[0]
