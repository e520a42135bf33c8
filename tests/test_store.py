"""The store as others read it, and as damage finds it."""

import shutil

import numpy as np
import pytest
import xarray
import zarr

from actigrad.errors import StoreError
from actigrad.sites import Work
from actigrad.storage.create import check_absent
from actigrad.storage.store import describe, is_store, open_store, read_sites, validate_store


@pytest.fixture
def copy(digits_store, tmp_path):
    shutil.copytree(digits_store, tmp_path / "copy.zarr")
    return tmp_path / "copy.zarr"


def chunk_of(path, array="sites/head/hidden/full/activation"):
    return next(file for file in sorted((path / array / "c").rglob("*")) if file.is_file())


def test_plain_xarray_opens_all_of_it_with_names_units_and_coordinates(digits_store):
    tree = xarray.open_datatree(digits_store, engine="zarr")
    full, summary = tree["sites/block1/conv/full"], tree["sites/block1/conv/summary"]
    assert full["activation"].dims == ("step", "sample", "y", "x", "neuron")
    assert full["step"].values.tolist() == [4]
    assert summary["activation"].dims == ("step", "metric", "neuron")
    assert summary["gradient"].sel(metric="rms", step=2).shape == (8,)
    assert tree["samples"]["label"].shape == (64,)
    assert tree.attrs["complete"]
    for node in tree.subtree:
        for name, array in node.data_vars.items():
            assert "long_name" in array.attrs, (node.path, name)


def test_plain_zarr_reads_the_same_values(digits_store):
    path = "sites/head/logits/full/gradient"
    group = zarr.open_group(digits_store, mode="r")
    np.testing.assert_array_equal(group[path][...], open_store(digits_store)[path].values)


def test_bfloat16_is_kept_as_float32_holding_its_values(digits_store):
    array = open_store(digits_store)["sites/head/hidden/full/activation"]
    assert (array.dtype, array.attrs["dtype"]) == (np.float32, "bfloat16")
    assert not (array.values.view(np.uint32) & 0xFFFF).any()


def test_its_sites_come_back_in_forward_order(digits_store):
    sites = read_sites(open_store(digits_store))
    assert [site.path for site in sites[:5]] == ["block1/conv", "block1/norm", "block1/relu", "block1", "pool1"]
    assert sites[0].dims == ("sample", "y", "x", "neuron")
    assert sites[0].sample_shape == (8, 8, 8)
    assert sites[-1].feeds == ("loss",)


def test_it_keeps_the_structure_with_operations_flops_and_parameters(digits_store):
    tree = open_store(digits_store)
    conv = read_sites(tree)[0]
    assert conv.work == Work((("conv_general_dilated", 1), ("add", 1)), 64 * 64 * 8 * (2 * 9 + 1), 9 * 8 + 8)
    after = tree.attrs["after_the_sites"]
    assert (after["parameters"], after["flops_per_sample"] > 0) == (0, True)


def test_it_describes_itself(digits_store):
    facts = describe(digits_store)
    assert (facts["complete"], facts["sites"], facts["samples"], facts["steps"]) == (True, 14, 64, [2, 4])


@pytest.mark.parametrize("array", ["sites/head/hidden/full/activation", "sites/block1/relu/full/activation",
                                   "sites/pool1/summary/gradient", "samples/loss"])  # fmt: skip
def test_a_flipped_byte_is_an_error_and_not_a_wrong_picture(copy, array):
    chunk = chunk_of(copy, array)
    for at in (0, chunk.stat().st_size // 2, chunk.stat().st_size - 1):
        whole = chunk.read_bytes()
        chunk.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(Exception, match=r"(?i)checksum|crc|decompress|zstd|blosc|corrupt"):
            _ = open_store(copy)[array].values
        chunk.write_bytes(whole)
    assert open_store(copy)[array].values.size


def test_a_chunk_that_is_gone_from_a_complete_store_is_an_error_and_not_a_fill_value(copy):
    validate_store(copy)
    chunk = chunk_of(copy)
    chunk.unlink()
    with pytest.raises(StoreError, match="head/hidden/full/activation has 0 of its 1 chunks"):
        validate_store(copy)
    with pytest.raises(StoreError, match="head/hidden/full/activation"):
        open_store(copy)


def test_an_incomplete_store_opens_and_says_so(copy):
    zarr.open_group(copy, mode="r+", use_consolidated=False).update_attributes({"complete": False})
    chunk_of(copy).unlink()
    assert not open_store(copy).attrs["complete"]


def test_what_is_no_store_is_told(tmp_path):
    with pytest.raises(StoreError, match="there is no store"):
        open_store(tmp_path / "nothing.zarr")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="not an actigrad store"):
        open_store(tmp_path / "folder")
    assert not is_store(tmp_path / "folder")


def test_a_store_of_another_schema_says_which(copy):
    zarr.open_group(copy, mode="r+", use_consolidated=False).update_attributes({"actigrad_schema": 99})
    with pytest.raises(StoreError, match="schema 99"):
        open_store(copy)


def test_what_exists_is_left_alone_unless_told_otherwise(copy, tmp_path):
    with pytest.raises(StoreError, match=r"\(complete\).*--overwrite"):
        check_absent(copy, overwrite=False)
    check_absent(copy, overwrite=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("years of work")
    with pytest.raises(StoreError, match="left alone"):
        check_absent(tmp_path / "thesis", overwrite=True)
