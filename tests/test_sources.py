"""Sources: the same samples come out whatever they went in as, in any batches; what is wrong is told by its batch."""

import gc
import subprocess
import sys
import threading
import tracemalloc
from contextlib import closing
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actigrad.errors import ConfigError, DataError
from actigrad.sources import Stream, Table, open_path, open_source, read_ahead, tables
from actigrad.storage.grid import blocks
from sourcing import FACTORIES, PATHS, UNTOLD, N, Rows, cut, rows, samples

DATA = samples()
NUMBERS = {name: values for name, values in DATA.items() if name != "name"}


def opened(make, **changes):
    return open_source(make, **{"key": "data.factory", "samples": None, "batch_size": 4} | changes)


def read(source, asked=None, size=4):
    asked = np.arange(len(source)) if asked is None else np.asarray(asked)
    return dict(source.read(asked, blocks(len(asked), size)))


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name].dtype == values.dtype, name
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def check_all(source, expected=DATA):
    """Batches, ids and labels, the fingerprint, all as of the dict of arrays."""
    numbers = {name: values for name, values in expected.items() if name != "name"}
    for (start, stop), batch in read(source).items():
        assert_equal(batch, {name: values[start:stop] for name, values in numbers.items()})
    known = source.known(np.arange(N))
    assert set(known) == set(expected) - {"x", "image"}
    for name, values in known.items():
        np.testing.assert_array_equal(values.astype(expected[name].dtype), expected[name])
    assert source.digest() == opened(lambda: expected).digest()


@pytest.mark.parametrize("kind", FACTORIES)
def test_whatever_a_factory_returns_gives_the_samples_of_the_dict_of_arrays(kind):
    source = opened(lambda: FACTORIES[kind](DATA), samples=N if kind in UNTOLD else None)
    assert len(source) == N
    check_all(source)
    check_all(source)  # a stream once more


@pytest.mark.parametrize("kind", PATHS)
def test_whatever_a_path_holds_gives_the_samples_of_the_dict_of_arrays(kind, tmp_path):
    path = PATHS[kind](DATA, tmp_path)
    source = opened(partial(open_path, path, batch_size=4), key="data.path")
    check_all(source, NUMBERS if "name" not in source.fields else DATA)
    assert isinstance(source, Table)
    picked = [7, 2, 2, 10]
    assert_equal(source.take(np.array(picked)), {name: values[picked] for name, values in NUMBERS.items()})


@pytest.mark.parametrize("kind", ["dict", "dataset of samples", "xarray", "arrow", "hugging face"])
def test_a_table_gives_any_samples_in_any_order(kind):
    source = opened(lambda: FACTORIES[kind](DATA))
    picked = [7, 2, 2, 10, 0]
    for (start, stop), batch in read(source, picked, 3).items():
        assert_equal(batch, {name: values[picked[start:stop]] for name, values in NUMBERS.items()})


@given(sizes=st.lists(st.integers(0, 6), max_size=8), size=st.integers(1, 13), samples=st.integers(1, N))
def test_a_stream_is_cut_and_joined_to_the_batches_of_the_run(sizes, size, samples):
    kept = []
    for one in sizes:
        kept.append(min(one, N - sum(kept)))
    parts = cut(NUMBERS, *kept)
    empty = {name: values[:0] for name, values in NUMBERS.items()}
    source = opened(lambda: iter([*parts[:1], empty, *parts[1:]]), samples=samples, batch_size=size)
    assert source.digest() == opened(lambda: {k: v[:samples] for k, v in NUMBERS.items()}).digest()
    found = read(source, size=size)
    assert list(found) == list(blocks(samples, size))
    for (start, stop), batch in found.items():
        assert_equal(batch, {name: values[start:stop] for name, values in NUMBERS.items()})
    late = [block for block in found if block[0] >= size]
    assert [block for block, _ in source.read(np.arange(samples), late)] == late


def test_a_stream_that_tells_its_length_needs_no_number_of_samples_and_one_that_does_not_is_told_how_to():
    assert len(opened(lambda: cut(DATA, 4, 4))) == N
    with pytest.raises(
        ConfigError, match=r"data.samples\s+found null, expected how many samples to read: a stream does"
    ):
        opened(lambda: iter(cut(DATA, 4, 4)))


def test_a_stream_has_no_other_than_its_first_samples():
    with pytest.raises(ConfigError, match=r"found \[1, 2\], expected a number, as a stream only has first samples"):
        opened(lambda: cut(DATA, 4), samples=[1, 2])


def test_a_stream_that_ends_early_tells_how_many_samples_it_has():
    source = opened(lambda: iter(cut(DATA, 4, 4)), samples=40)
    told = r"data.factory ended after 11 samples, in batch 2 \(samples 8 to 12\); data.samples asks for 40.*at most 11"
    with pytest.raises(DataError, match=told):
        source.digest()


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("x", lambda v: v.astype(np.float64), r"x float64\[4\] where float32\[4\] was expected"),
        ("image", lambda v: v[:, :, :2], r"image float32\[2, 2\] where float32\[2, 3\] was expected"),
        ("x", lambda v: v[:-1], r"fields of different lengths: \{'x': 2, 'image': 3"),
        ("label", lambda v: v.astype("datetime64[s]"), r"'label', holds datetime64\[s\]; expected numbers"),
        ("label", lambda v: np.array([None] * len(v)), r"'label', holds objects, the first of type NoneType; expected"),
    ],
)
def test_a_batch_that_is_not_like_the_first_is_refused_by_its_number(name, change, told):
    parts = cut(DATA, 4, 3)
    parts[1] = {**parts[1], name: change(parts[1][name])}
    with pytest.raises(DataError, match=f"batch 1 of data.factory.*{told}"):
        opened(lambda: parts).digest()


def test_a_field_that_is_gone_or_new_is_refused_by_its_batch():
    first, second = cut(NUMBERS, 6)
    second["labels"] = second.pop("label")
    told = r"batch 1 of data.factory has label nothing where int32\[\] was expected, labels int32\[\] where nothing was"
    with pytest.raises(DataError, match=told):
        opened(lambda: [first, second]).digest()


@pytest.mark.parametrize("element", [(1, 2), {}, np.ones(3)])
def test_an_element_that_is_no_dict_is_refused(element):
    with pytest.raises(DataError, match=r"batch 0 of data.factory is a .*; expected a dict of arrays, samples along"):
        opened(lambda: [element])


def failing(parts, at):
    for number, part in enumerate(parts):
        if number == at:
            raise ZeroDivisionError("the disk is on fire")
        yield part


@pytest.mark.parametrize("at", [0, 2])
def test_a_loader_that_raises_is_told_with_its_batch_and_its_own_error(at):
    with pytest.raises(DataError, match=f"batch {at} of data.factory could not be read: ZeroDivisionError: the d") as e:
        opened(lambda: failing(cut(DATA, 3, 3, 3), at), samples=N).digest()
    assert isinstance(e.value.__cause__, ZeroDivisionError)


def test_a_table_that_raises_is_told_with_the_batch_of_the_run():
    class Broken(Rows):
        def __getitem__(self, index: int) -> Any:
            return 1 / 0 if index == 9 else super().__getitem__(index)

    source = opened(lambda: Broken(DATA))
    told = r"batch 2 of data.factory \(samples 8 to 11\) could not be read: ZeroDivisionError: division by zero"
    with pytest.raises(DataError, match=told):
        read(source)


def test_a_sample_that_a_table_lacks_is_told():
    class Filtered(Rows):
        def __getitem__(self, index: int) -> Any:
            return None if index == 5 else super().__getitem__(index)

    with pytest.raises(
        DataError, match=r"batch 1 of data.factory .*sample 5 is a NoneType; expected a dict of x, image"
    ):
        read(opened(lambda: Filtered(DATA)))


def test_a_stream_that_gives_other_samples_in_each_pass_is_refused():
    random = np.random.default_rng(0)

    def shuffled():
        order = random.permutation(N)
        return iter(cut({name: values[order] for name, values in DATA.items()}, 4, 4))

    source = opened(shuffled, samples=N)
    source.digest()
    with pytest.raises(
        DataError, match=r"batch 0 of data.factory \(samples 0 to 4\) is not what it was in the first pass"
    ):
        read(source)


def test_a_stream_that_ends_earlier_in_a_later_pass_is_refused():
    lengths = iter([N, N, 5])  # looking at its first batch, the survey, and a pass

    def shrinking():
        return (
            iter(cut({name: values[:next_length] for name, values in DATA.items()}, 4))
            if (next_length := next(lengths))
            else None
        )

    source = opened(shrinking, samples=N)
    source.digest()
    with pytest.raises(DataError, match=r"ended after 5 samples, in batch 1 \(samples 4 to 8\)"):
        read(source)


@pytest.mark.parametrize("nothing", [{}, {"x": np.ones((0, 3))}, [], iter([])], ids=["dict", "array", "list", "stream"])
def test_data_without_samples_are_refused(nothing):
    with pytest.raises(ConfigError, match=r"without samples, expected at least one sample|returned nothing"):
        opened(lambda: nothing, samples=3 if iter(nothing) is nothing else None)


@pytest.mark.parametrize("thing", [3, "samples.npy", None])
def test_what_holds_no_samples_is_refused_with_what_would(thing):
    with pytest.raises(
        ConfigError, match=rf"returned a {type(thing).__name__}, expected a dict of arrays, an iterable"
    ):
        opened(lambda: thing)


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(
        ConfigError, match=r"shapes \{'x': \(3, 2\), 'y': \(4,\)\}, expected a dict of arrays whose first"
    ):
        opened(lambda: {"x": np.ones((3, 2)), "y": np.ones(4)})


def test_the_splits_of_a_hugging_face_dataset_are_named():
    import datasets

    split = datasets.Dataset.from_dict({"x": [1.0]})
    with pytest.raises(ConfigError, match="the splits train, test, expected one of them"):
        opened(lambda: datasets.DatasetDict({"train": split, "test": split}))


def test_variables_without_a_common_dim_are_refused():
    import xarray

    with pytest.raises(ConfigError, match=r"expected variables along a dim called 'sample', or along one first dim"):
        opened(lambda: xarray.Dataset({"x": ("a", np.ones(2)), "y": ("b", np.ones(2))}))


def test_the_index_of_an_xarray_is_the_id_of_its_samples():
    import xarray

    dataset = xarray.Dataset({"x": (("when", "d"), np.ones((2, 3)))}, coords={"when": [17, 4]})
    np.testing.assert_array_equal(opened(lambda: dataset).known(np.arange(2))["id"], [17, 4])


def test_arrow_columns_with_gaps_or_ragged_lists_are_refused_by_name():
    import pyarrow as pa

    with pytest.raises(DataError, match="column 'x' has lists of 1 to 2; expected one length: pad them"):
        read(opened(lambda: pa.table({"x": [[1.0], [1.0, 2.0]]})))
    with pytest.raises(DataError, match="column 'x' has no value at 1 of its samples"):
        read(opened(lambda: pa.table({"x": [1.0, None]})))


def test_nan_and_bfloat16_pass_as_they_are():
    x = np.array([[np.nan, -0.0], [np.inf, 1.0]], ml_dtypes.bfloat16)
    source = opened(lambda: [{"x": x}])
    (batch,) = read(source).values()
    assert batch["x"].tobytes() == x.tobytes()
    assert source.digest() == opened(lambda: {"x": x}).digest()


def test_the_fingerprint_tells_values_order_names_dtypes_and_shapes_apart():
    x = np.arange(12, dtype=np.int32).reshape(6, 2)
    others = [x + 1, x[::-1], x.astype(np.float32), x.reshape(3, 4), x[:5]]
    digests = {opened(lambda one=one: {"x": one}).digest() for one in [x, *others]}
    digests.add(opened(lambda: {"y": x}).digest())
    assert len(digests) == 7
    assert (
        opened(lambda: {"a": np.array(["a", "bc"])}).digest() != opened(lambda: {"a": np.array(["ab", "c"])}).digest()
    )


def test_a_large_table_on_the_disk_is_fingerprinted_by_evenly_spaced_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "EXACT_BYTES", 100)
    monkeypatch.setattr(tables, "SPACED", 5)
    data = {"x": np.zeros((1001, 2), np.float32), "label": np.arange(1001)}

    def digest(change):
        changed = {name: values.copy() for name, values in data.items()}
        change(changed)
        np.savez(tmp_path / "a.npz", **changed)
        return opened(partial(open_path, tmp_path / "a.npz", batch_size=4)).digest()

    same = digest(lambda d: None)
    assert digest(lambda d: d["x"].__setitem__(500, 1)) != same  # 0, 250, 500, 750, 1000
    assert digest(lambda d: d["x"].__setitem__(1000, 1)) != same
    assert digest(lambda d: d["label"].__setitem__(3, 7)) != same  # labels are read whole
    assert digest(lambda d: d["x"].__setitem__(3, 1)) == same  # as documented


def test_training_gets_arrays_where_they_fit_and_else_the_source(monkeypatch):
    data = {"x": DATA["x"], "name": DATA["name"]}
    assert opened(lambda: data).for_training()["x"] is data["x"]
    lazy = opened(lambda: rows(data))
    assert_equal(lazy.for_training(), {"x": DATA["x"]})
    monkeypatch.setattr(tables, "TRAINING_BYTES", 10)
    assert lazy.for_training() is lazy
    stream = opened(lambda: cut(data, 4)).for_training()
    assert isinstance(stream, Stream)
    for _ in range(2):
        assert [len(batch["x"]) for batch in stream] == [4, 7]
    assert [set(batch) for batch in stream] == [{"x"}, {"x"}]


def test_what_is_read_is_nobody_elses():
    x = np.zeros((4, 2), np.float32)
    ((_, batch),) = read(opened(lambda: {"x": x})).items()
    x += 1
    assert not batch["x"].any()


# Reading ahead


def threads():
    return [one for one in threading.enumerate() if one.name.startswith("actigrad-data")]


def test_reading_ahead_keeps_the_order_and_ends_its_thread():
    assert list(read_ahead(iter(range(20)))) == list(range(20))
    assert list(read_ahead(iter(()))) == []
    assert not threads()


def test_reading_ahead_reads_in_another_thread_and_no_further_than_it_should():
    taken, readers = [], set()

    def items():
        for i in range(100):
            taken.append(i)
            readers.add(threading.current_thread())
            yield i

    with closing(read_ahead(items(), ahead=3)) as ahead:
        assert [next(ahead), next(ahead)] == [0, 1]
        assert len(taken) <= 2 + 3
    assert threading.current_thread() not in readers
    assert not threads()


def test_what_the_reader_raises_comes_after_what_it_read_before():
    found = []
    with pytest.raises(ZeroDivisionError, match="on fire"):
        found.extend(read_ahead(failing("abcd", 2)))
    assert found == ["a", "b"]
    assert not threads()


def test_a_caller_that_fails_leaves_no_thread_behind():
    def use():
        for item in read_ahead(iter(range(100))):
            if item == 3:
                raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        use()
    gc.collect()
    assert not threads()


# Memory

FLAT = r"""
import re, sys
import numpy as np
from functools import partial
from actigrad.sources import open_path, open_source
source = open_source(partial(open_path, sys.argv[1], batch_size=64), key="data.path", samples=None, batch_size=64)
n = len(source)
peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
begin = peak()
for block, batch in source.read(np.arange(n), ((i, i + 64) for i in range(0, n, 64))):
    pass
print(n, peak() - begin)
"""


@pytest.mark.parametrize("kind", ["parquet", "zarr"])
def test_reading_a_file_takes_memory_of_a_batch_and_not_of_the_file(kind, tmp_path):
    import pyarrow as pa
    import zarr
    from pyarrow import parquet

    n, width = 2**14, 1024  # 64 MiB
    x = np.zeros((n, width), np.float32)
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        values = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), width)
        parquet.write_table(pa.table({"x": values}), path, row_group_size=256, use_dictionary=False)
    else:
        zarr.create_group(path).create_array("x", data=x, chunks=(256, width))
    done = subprocess.run([sys.executable, "-c", FLAT, str(path)], capture_output=True, text=True, check=True)
    found, kilobytes = map(int, done.stdout.split())
    assert found == n
    assert kilobytes < 24 * 1024


@pytest.mark.parametrize("kind", ["stream", "dataset of samples", "npz"])
def test_what_is_held_while_reading_does_not_grow_with_the_samples(kind, tmp_path):
    def batches(n):
        return ({"x": np.zeros((32, 1024), np.float32)} for _ in range(n // 32))

    class Big:
        def __init__(self, n):
            self.n = n

        def __len__(self):
            return self.n

        def __getitem__(self, i):
            return {"x": np.zeros(1024, np.float32), "label": i}

    def peak(n):
        if kind == "npz":
            np.savez(tmp_path / "a.npz", x=np.zeros((n, 1024), np.float32))
        makes = {"stream": partial(batches, n), "dataset of samples": partial(Big, n)}
        make = makes.get(kind) or partial(open_path, tmp_path / "a.npz", batch_size=64)
        source = opened(make, samples=n if kind == "stream" else None, batch_size=64)
        gc.collect()
        tracemalloc.start()
        for _ in read_ahead(source.read(np.arange(n), blocks(n, 64))):
            pass
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(20 * 256) < 8 * 64 * 4096  # of 80 batches: those that wait, the one in hand, and what it is made of
