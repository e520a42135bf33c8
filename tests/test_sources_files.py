"""Paths: what is there is told from its files, what only pickle reads is refused, and errors say what would do."""

import pickle
import sys
from functools import partial

import numpy as np
import pytest

from actigrad.errors import ConfigError, DataError
from actigrad.sources import files, open_path, open_source
from sourcing import PATHS, hugging_face_of, samples

DATA = samples()


def opened(path, trust=None):
    make = partial(open_path, path, batch_size=4, trust=trust)
    return open_source(make, key="data.path", samples=None, batch_size=4)


@pytest.mark.parametrize(("kind", "mapped"), [("folder of npy", True), ("npz", True), ("compressed npz", False)])
def test_arrays_that_are_saved_plainly_stay_on_the_disk(kind, mapped, tmp_path):
    arrays = open_path(PATHS[kind](DATA, tmp_path), batch_size=4)
    assert {isinstance(values, np.memmap) for values in arrays.values()} == {mapped}
    for name, values in DATA.items():
        np.testing.assert_array_equal(arrays[name], values)


@pytest.mark.parametrize("shape", [(3, 4), (4,), (5, 2, 3)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_members_of_an_npz_are_mapped_at_their_place(shape, order, tmp_path):
    first, second = np.arange(np.prod(shape)).reshape(shape), np.random.default_rng(0).normal(size=shape)
    np.savez(tmp_path / "a.npz", first=np.asarray(first, order=order), second=np.asarray(second, order=order))
    arrays = open_path(tmp_path / "a.npz", batch_size=4)
    np.testing.assert_array_equal(arrays["first"], first)
    np.testing.assert_array_equal(arrays["second"], second)


def test_one_array_is_named_by_its_file(tmp_path):
    import zarr

    np.save(tmp_path / "image.npy", DATA["image"])
    zarr.create_array(tmp_path / "x.zarr", data=DATA["x"])
    assert list(opened(tmp_path / "image.npy").fields) == ["image"]
    assert list(opened(tmp_path / "x.zarr").fields) == ["x"]


def test_a_folder_of_parquet_files_is_one_table(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    for name, rows in (("b", [2, 3]), ("a", [0, 1]), ("c", [4])):
        parquet.write_table(pa.table({"x": rows}), tmp_path / f"{name}.parquet")
    np.testing.assert_array_equal(opened(tmp_path).take(np.array([4, 0, 3]))["x"], [4, 0, 3])


def test_what_is_not_there_or_not_known_is_told_with_what_would_do(tmp_path):
    with pytest.raises(
        ConfigError, match=r"data.path\s+found '.*none.npy', expected a .npy, .npz.*\s+There is nothing"
    ):
        opened(tmp_path / "none.npy")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"found '.*a.txt', expected a .npy, .npz, .nc, .parquet"):
        opened(tmp_path / "a.txt")
    with pytest.raises(ConfigError, match=r"expected a .npy, .npz, .nc, .parquet"):
        opened(tmp_path)


def test_a_file_that_is_broken_is_told_by_its_path(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"data.path .*a.parquet could not be read: ArrowInvalid"):
        opened(tmp_path / "a.parquet")


def test_the_splits_of_a_saved_hugging_face_dataset_are_named(tmp_path):
    import datasets

    datasets.disable_progress_bars()
    datasets.DatasetDict({"train": hugging_face_of(DATA), "test": hugging_face_of(DATA)}).save_to_disk(tmp_path / "hf")
    with pytest.raises(ConfigError, match=r"expected one split\s+It holds test, train: as in .*hf/test"):
        opened(tmp_path / "hf")
    assert len(opened(tmp_path / "hf/test")) == 11


def test_a_library_that_is_missing_is_told_with_the_extra_that_brings_it(tmp_path, monkeypatch):
    path = PATHS["parquet"](DATA, tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "actigrad.sources.arrow")
    with pytest.raises(ConfigError, match=r"expected the package pyarrow\s+pip install 'actigrad\[data\]'"):
        opened(path)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def write_bomb(path):
    objects = np.array([Bomb()], dtype=object)
    if path.suffix == ".npy":
        np.save(path, objects, allow_pickle=True)
    elif path.suffix == ".npz":
        np.savez(path, x=np.ones(3), y=objects)
    else:
        path.write_bytes(pickle.dumps(Bomb()))
    return path


@pytest.mark.parametrize("name", ["a.pkl", "a.pt", "a.npy", "a.npz"])
def test_no_pickle_is_loaded_unless_the_config_trusts_it(name, tmp_path):
    path = write_bomb(tmp_path / name)
    told = r"read by pickle, expected a file without pickle\s+Loading a pickle runs any program.*data.trust: pickle"
    with pytest.raises(ConfigError, match=told):
        opened(path)
    with pytest.raises(pytest.fail.Exception, match="a pickle was loaded"):
        opened(path, trust="pickle")


def test_a_trusted_pickle_is_read(tmp_path):
    numbers = {name: values for name, values in DATA.items() if name != "name"}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(numbers))
    names = DATA["name"].astype(object)
    np.savez(tmp_path / "a.npz", **numbers, name=names)
    for path in ("a.pkl", "a.npz"):
        np.testing.assert_array_equal(opened(tmp_path / path, "pickle").take(np.arange(11))["x"], DATA["x"])


def test_every_kind_of_file_is_in_the_table_of_the_page():
    table = files.__doc__ or ""
    for suffix in (".npy", ".npz", ".nc", ".parquet", ".arrow", ".feather", ".pkl", ".pt"):
        assert suffix in table
