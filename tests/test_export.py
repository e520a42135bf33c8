"""Export: what another tool reads back is what the store holds; a TensorBoard serves it; failures leave nothing."""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import zipfile
from typing import Any

import duckdb
import numpy as np
import pandas
import pytest
import xarray
import zarr

from actigrad import cli
from actigrad import export as exporting
from actigrad.errors import ExportError, StoreError
from actigrad.export import FORMATS, export
from actigrad.export.images import draw_by_sample, draw_by_step, encode
from actigrad.export.series import list_series
from actigrad.export.to_npz import safe_name
from actigrad.export.to_tensorboard import make_buckets
from actigrad.metrics import METRICS, bin_edges
from actigrad.pictures.scales import read_scale
from actigrad.storage.create import finalize_store
from actigrad.storage.store import open_store

HOSTILE = "../../<script>alert(1)</script>"


@pytest.fixture(scope="module")
def tree(digits_store):
    return open_store(digits_store)


@pytest.fixture(scope="module")
def exported(digits_store, tmp_path_factory):
    """Each format once, by name, when it is first asked for."""
    folder = tmp_path_factory.mktemp("export")

    class Exported(dict):
        def __missing__(self, name):
            self[name] = export(digits_store, name, folder / f"digits{FORMATS[name].suffix}")
            return self[name]

    return Exported()


def stored(tree, path, metric, quantity="activation"):
    return tree[f"sites/{path}/summary"][quantity].values[:, METRICS.index(metric)]


def test_parquet_is_a_tidy_table_that_duckdb_and_pandas_read(exported, tree):
    path, expected = exported["parquet"], stored(tree, "head/relu", "rms")
    query = f"""select step, neuron, value from '{path}'
        where site = 'head/relu' and quantity = 'activation' and metric = 'rms' order by step, neuron"""
    rows = duckdb.sql(query).fetchall()
    np.testing.assert_array_equal(np.array([row[2] for row in rows], np.float32).reshape(expected.shape), expected)
    assert [row[:2] for row in rows[:2]] == [(2, 0), (2, 1)]
    table = pandas.read_parquet(path)
    assert list(table) == ["site", "quantity", "step", "metric", "layer", "neuron", "value"]
    assert set(table.quantity) == {"activation", "gradient", "parameter", "parameter_gradient", "update"}
    assert len(table) == sum(one.values.size for one in list_series(tree))
    assert table.layer.isna().all()


def test_pieces_of_a_table_are_small_and_lose_nothing(digits_store, exported, tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    monkeypatch.setattr("actigrad.export.to_parquet.ROWS", 100)
    again = export(digits_store, "parquet", tmp_path / "again.parquet")
    assert pq.read_table(again).equals(pq.read_table(exported["parquet"]))
    groups = pq.ParquetFile(again).metadata
    assert max(groups.row_group(i).num_rows for i in range(groups.num_row_groups)) < 200


def test_netcdf_is_the_same_tree(exported, tree):
    opened = xarray.open_datatree(exported["netcdf"], engine="h5netcdf")
    assert [node.path for node in opened.subtree] == [node.path for node in tree.subtree]
    for node in tree.subtree:
        data = node.to_dataset(inherit=False)
        for name in data.variables:
            there = opened[node.path].to_dataset(inherit=False)[name]
            np.testing.assert_array_equal(there.values.astype(data[name].dtype), data[name].values)
            assert there.dims == data[name].dims
    assert opened["sites/head/relu"].attrs["feeds"] == "head/logits"
    assert json.loads(opened.attrs["config"])["seed"] == 0


def test_npz_holds_every_array_under_its_path_and_no_pickle(exported, tree):
    with np.load(exported["npz"], allow_pickle=False) as arrays:
        for node in tree.subtree:
            data = node.to_dataset(inherit=False)
            for name in data.variables:
                there = arrays[f"{node.path}/{name}".strip("/")]
                np.testing.assert_array_equal(there.astype(data[name].dtype), data[name].values)
        assert len(arrays) == sum(len(node.to_dataset(inherit=False).variables) for node in tree.subtree)


def test_an_array_written_in_pieces_is_the_same_array(digits_store, exported, tmp_path, monkeypatch):
    monkeypatch.setattr("actigrad.export.to_npz.BLOCK_BYTES", 300)
    again = export(digits_store, "npz", tmp_path / "again.npz")
    with np.load(again) as small, np.load(exported["npz"]) as whole:
        assert sorted(small) == sorted(whole)
        for name in whole:
            np.testing.assert_array_equal(small[name], whole[name])


@pytest.mark.parametrize("name", ["../../etc/x", "/abs", "a\\b", "C:/x", "..", "a/./b", "\0", "x" * 9 + "\n"])
def test_a_name_from_a_store_stays_within_the_folder_it_is_unpacked_to(name, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(safe_name(name), b"")
    path = safe_name(name)
    assert not path.startswith("/")
    assert not {".", "..", ""} & set(path.split("/"))
    assert re.fullmatch(r"[\w./%\- #\[\]()=,+@~]+", path)


def test_treescope_is_one_page_offline_with_the_tree_and_the_arrays(exported):
    text = exported["treescope"].read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=[\"']?https?:", text)
    assert text.startswith("<!DOCTYPE html>")
    assert "actigrad.zoo.digits" in text


def test_treescope_reads_the_edges_of_an_array_and_marks_the_cut(tree):
    from actigrad.export.to_treescope import Stored, _Adapter

    array = tree["sites/head/relu/summary"]["activation"].isel(metric=1)
    adapter = _Adapter(lambda done, total: None, 1)
    shown, mask = adapter.get_array_data_with_truncation(Stored(array, ""), None, (None, 3))
    values = array.values
    np.testing.assert_array_equal(shown[mask], np.concatenate([values[:, :3], values[:, -3:]], 1).ravel())
    assert not mask[:, 3].any()


@pytest.fixture(scope="module")
def board(exported):
    """A real TensorBoard on the exported events; a function that reads its HTTP API."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", exported["tensorboard"].parent, "--port", "0",
               "--host", "127.0.0.1", "--load_fast", "false"]  # fmt: skip
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as server:
        try:
            told, address = "", None
            while address is None and (line := server.stderr.readline()):
                told, address = told + line, re.search(r"at (http://[^ ]+/) \(Press", line)
            assert address, told

            def ask(path, **query):
                url = f"{address[1]}data/plugin/{path}?{urllib.parse.urlencode(query)}"
                with urllib.request.urlopen(url) as answer:
                    return answer.read()

            until = time.monotonic() + 60
            while "digits.tensorboard" not in json.loads(ask("images/tags")) and time.monotonic() < until:
                time.sleep(0.3)
            yield lambda path, **query: ask(path, **{"run": "digits.tensorboard"} | query)
        finally:
            server.terminate()


def test_tensorboard_shows_the_scalars_of_every_site_along_the_steps(board, tree):
    tags = json.loads(board("scalars/tags"))["digits.tensorboard"]
    sites = tree.attrs["sites"]
    assert {f"activation_rms/{site}" for site in sites} | {"loss/train", "loss/held_out"} <= set(tags)
    assert "parameter_gradient_rms/head/hidden/kernel" in tags
    points = json.loads(board("scalars/scalars", tag="activation_rms/head/relu"))
    assert [point[1] for point in points] == [2, 4]
    expected = np.median(stored(tree, "head/relu", "rms"), axis=1)
    np.testing.assert_allclose([point[2] for point in points], expected, rtol=1e-5)
    assert "median over neurons" in tags["activation_rms/head/relu"]["description"]


def test_tensorboard_shows_histograms_with_every_value_counted(board, tree):
    points = json.loads(board("histograms/histograms", tag="activation/head/relu"))
    assert [point[1] for point in points] == [2, 4]
    for (_, _, buckets), low, high in zip(
        points, stored(tree, "head/relu", "min"), stored(tree, "head/relu", "max"), strict=True
    ):
        left, right, counts = np.array(buckets).T
        assert counts.sum() == 64 * 32
        assert left[0] == low.min()
        assert right[-1] == pytest.approx(high.max())
        assert (right >= left).all()


def test_tensorboard_shows_heatmaps_as_images(board, tree):
    found = json.loads(board("images/images", tag="activation_by_sample/head/relu", sample=0))
    assert [one["step"] for one in found] == [4]
    png = board("images/individualImage", **dict(urllib.parse.parse_qsl(found[0]["query"])))
    from io import BytesIO

    from matplotlib.image import imread

    series = next(one for one in list_series(tree) if (one.place, one.quantity) == ("head/relu", "activation"))
    drawn = draw_by_sample(series, 4, read_scale(series.group, series.quantity, 1))
    shown = imread(BytesIO(png))[::8, ::8, :3]
    np.testing.assert_allclose(shown * 255, drawn, atol=0.5)
    assert json.loads(board("images/images", tag="activation_by_step/head/relu", sample=0))[0]["step"] == 4


def test_buckets_hold_every_value_between_the_smallest_and_the_largest():
    random = np.random.default_rng(0)
    values = np.r_[random.normal(size=1000) * 10.0 ** random.integers(-14, 8, 1000), np.zeros(7)]
    edges = np.array(bin_edges())
    counts = np.histogram(values[values != 0], edges)[0]
    buckets = make_buckets(counts, 7, edges[:-1], edges[1:], values.min(), values.max())
    assert buckets[:, 2].sum() == len(values)
    assert np.isfinite(buckets).all()
    assert (buckets[1:, 0] == buckets[:-1, 1]).all()
    assert (buckets[0, 0], buckets[-1, 1]) == (values.min(), values.max())


def test_a_constant_has_one_bucket_with_a_width_and_nothing_has_none():
    edges = np.array(bin_edges())
    counts = np.zeros(len(edges) - 1, int)
    assert make_buckets(counts, 0, edges[:-1], edges[1:], np.nan, np.nan).shape == (0, 3)
    assert make_buckets(counts, 5, edges[:-1], edges[1:], 0.0, 0.0).tolist() == [[-0.5, 0.5, 5.0]]


def test_an_image_joins_blocks_without_a_seam_and_is_loud_where_not_finite(tree, monkeypatch):
    series = next(one for one in list_series(tree) if one.place == "block1/conv")
    scale = read_scale(series.group, series.quantity, 1)
    whole = draw_by_sample(series, 4, scale)
    monkeypatch.setattr("actigrad.export.images.READ_BYTES", 1)
    np.testing.assert_array_equal(draw_by_sample(series, 4, scale), whole)
    assert draw_by_sample(series, 2, scale) is None
    broken = series.whole.copy(data=np.where(np.arange(64)[:, None, None, None] == 3, np.nan, series.whole.values))
    shown: Any = draw_by_sample(type(series)(series.place, "activation", series.values, series.group, broken), 4, scale)
    assert (shown[:, 3] == (0, 224, 90)).all()
    assert not (shown[:, 4] == (0, 224, 90)).all(-1).any()
    assert draw_by_step(series, scale).shape[:2] == (8, 2)
    assert encode(whole).startswith(b"\x89PNG")


def test_hostile_names_are_text_in_every_format(digits_store, tmp_path):
    hostile = tmp_path / "hostile.zarr"
    shutil.copytree(digits_store, hostile)
    group = zarr.open_group(hostile, mode="r+", use_consolidated=False)
    group.update_attributes({"title": HOSTILE})
    group["sites/head/relu"].update_attributes({"path": HOSTILE})
    (hostile / "sites/head/relu").rename(hostile / "sites/head/<b>")
    finalize_store(hostile)
    page = export(hostile, "treescope").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
    with zipfile.ZipFile(export(hostile, "npz")) as file:
        assert not [name for name in file.namelist() if ".." in name.split("/")]
    assert HOSTILE in set(pandas.read_parquet(export(hostile, "parquet")).site)
    export(hostile, "tensorboard")
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"hostile.zarr", "hostile.treescope.html", "hostile.npz", "hostile.parquet", "hostile.tensorboard"}


def test_what_is_there_is_never_replaced_and_errors_name_the_cure(digits_store, tmp_path):
    taken = tmp_path / "taken.npz"
    taken.write_text("mine")
    with pytest.raises(ExportError, match=r"taken.npz exists; nothing was changed.*--output"):
        export(digits_store, "npz", taken)
    assert taken.read_text() == "mine"
    with pytest.raises(
        ExportError, match=r"no format 'parket'; expected one of tensorboard, .* did you mean 'parquet'"
    ):
        export(digits_store, "parket")
    with pytest.raises(StoreError, match=r"no store at .*nowhere"):
        export(tmp_path / "nowhere.zarr", "npz")
    with pytest.raises(ExportError, match=r"cannot write .*: File exists"):
        export(digits_store, "npz", taken / "x.npz")


def test_an_export_that_fails_leaves_nothing(digits_store, tmp_path, monkeypatch):
    def write(tree, path, advance):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("actigrad.export.to_npz.write", write)
    with pytest.raises(ExportError, match="No space left"):
        export(digits_store, "npz", tmp_path / "x.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_is_missing_is_named_with_its_extra(digits_store, tmp_path, monkeypatch):
    def gone(name):
        raise ModuleNotFoundError("No module named 'pyarrow.parquet'", name="pyarrow.parquet")

    monkeypatch.setattr(exporting, "import_module", gone)
    with pytest.raises(ExportError, match=r"parquet needs pyarrow.*pip install 'actigrad\[export\]'"):
        export(digits_store, "parquet", tmp_path / "x.parquet")
    with pytest.raises(ModuleNotFoundError):
        export(digits_store, "netcdf", tmp_path / "x.nc")


def test_the_command_tells_where_it_went_and_ends_with_1_for_a_wrong_format(
    digits_store, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        sys, "argv", ["actigrad", "export", str(digits_store), "--to", "npz", "--output", str(tmp_path / "a.npz")]
    )
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code in (0, None)
    assert capsys.readouterr().out == f"export  {tmp_path / 'a.npz'}\n"
    monkeypatch.setattr(sys, "argv", ["actigrad", "export", str(digits_store), "--to", "csv"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    assert "no format 'csv'" in capsys.readouterr().err
