"""The explorer without a browser: the state and its address, who may ask, what is read, what a download holds."""

import io
import shutil
import subprocess
import sys
import threading
from functools import partial

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pandas
import pytest
import zarr
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from actigrad.config.files import load_config
from actigrad.errors import ActigradError, StoreError, ViewError
from actigrad.explorer.card import Card
from actigrad.explorer.cells import image_columns
from actigrad.explorer.download import make_file
from actigrad.explorer.reading import read_matrix
from actigrad.explorer.security import Access, make_access
from actigrad.explorer.snapshot import Cache
from actigrad.explorer.source import Source
from actigrad.explorer.state import DEFAULT, State, read_query
from actigrad.explorer.view import fit, orders_of
from actigrad.metrics import METRICS
from actigrad.pictures.catalogue import write_levels
from actigrad.pictures.levels import build_levels
from actigrad.runs.job import load as load_job
from actigrad.runs.run import run
from actigrad.storage.store import open_store

SITE = "head/hidden"
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
wholes = st.integers(-(10**14), 10**14)
numbers = st.floats(-1e9, 1e9)
states = st.builds(
    State, store=words, site=words, quantity=st.sampled_from(["activation", "gradient"]),
    metric=st.sampled_from(METRICS), x=st.sampled_from(["sample", "step"]), step=st.none() | wholes,
    group=st.just("") | wholes.map("label:{}".format), order=st.sampled_from(["", "natural", "label"]),
    neurons=st.sampled_from(["natural", "score"]), neuron=st.none() | wholes,
    rows=st.none() | st.tuples(st.integers(0, 10**6), st.integers(1, 10**6)).map(lambda p: (p[0], p[0] + p[1])),
    window=st.none() | st.tuples(numbers, numbers, numbers, numbers).filter(lambda w: w[0] < w[1] and w[2] < w[3]),
    versus=st.just("") | wholes.map("step:{}".format) | words.map("store:{}".format), find=words,
    theme=st.sampled_from(["", "light", "dark"]),
)  # fmt: skip


@pytest.fixture(scope="module")
def sources(digits_store):
    source = Source("digits", digits_store)
    source.follow()
    return {"digits": source}


@pytest.fixture(scope="module")
def stored(digits_store):
    return open_store(digits_store)


def matrix_of(sources, **state):
    return read_matrix(fit(State(site=SITE, **state), sources))


@hypothesis.given(states)
def test_a_state_is_its_query(state):
    assert read_query(f"?{state.query()}") == (state, ())


@hypothesis.given(st.dictionaries(st.sampled_from(list(DEFAULT.texts())) | words, words, max_size=8))
def test_no_query_fails_and_what_is_refused_is_told(texts):
    from urllib.parse import urlencode

    state, problems = read_query(urlencode(texts))
    again, none = read_query(state.query())
    assert (again, none) == (state, ())
    assert all("in the address was ignored" in problem for problem in problems)


def test_a_change_forgets_what_belonged_to_the_other_site():
    state = State(site="a", neuron=3, rows=(1, 2), window=(0.0, 1.0, 0.0, 1.0), step=4)
    assert state.change(site="b") == State(site="b", step=4)
    assert state.change(site="b", neuron=5).neuron == 5
    assert state.change(site="a") == state


def test_what_the_store_does_not_have_is_replaced_and_told(sources):
    asked = State(site="head/hiden", step=3, group="label:77", neuron=5000, versus="store:nobody", store="other")
    view = fit(asked, sources)
    assert "There is no store 'other'" in view.notes[0]
    view = fit(State(site="head/hiden", step=3, group="label:77", versus="store:nobody"), sources)
    assert (view.state.site, view.step, view.state.group, view.state.versus) == (SITE, 2, "", "")
    told = " ".join(view.notes)
    for words_ in (
        "no site 'head/hiden'",
        "Step 3 is not recorded; this is step 2",
        "no samples 'label:77'",
        "'store:nobody' to subtract",
    ):
        assert words_ in told
    assert "neurons 0 to" in fit(State(site=SITE, neuron=5000), sources).notes[0]
    assert "not kept sample by sample" in fit(State(site="block1/norm"), sources).notes[0]


def test_the_matrix_is_the_store_in_every_order(sources, stored):
    full = stored[f"sites/{SITE}/full"]
    for quantity in ("activation", "gradient"):
        for state in ({}, {"order": "natural"}, {"neurons": "score"}, {"group": "label:3"}):
            matrix = matrix_of(sources, quantity=quantity, **state)
            values = full[quantity].isel(step=-1).values.T
            np.testing.assert_array_equal(matrix.read(slice(None)), values[np.ix_(matrix.neurons, matrix.columns)])
            assert sorted(matrix.neurons) == list(range(values.shape[0]))
    labels = stored["samples"]["label"].values
    np.testing.assert_array_equal(labels[matrix_of(sources, group="label:3").columns], 3)
    assert (np.diff(labels[matrix_of(sources).columns]) >= 0).all()
    rms = stored[f"sites/{SITE}/summary"]["activation"].isel(step=-1, metric=METRICS.index("rms")).values
    assert (np.diff(rms[matrix_of(sources, neurons="score").neurons]) <= 0).all()


def test_a_difference_of_two_steps_is_the_difference(sources, stored):
    extreme = stored[f"sites/{SITE}/summary"]["activation"].isel(metric=METRICS.index("extreme")).values
    matrix = matrix_of(sources, x="step", versus="step:2")
    np.testing.assert_allclose(matrix.read(slice(None)), (extreme - extreme[:1]).T, rtol=1e-6)
    assert matrix.scale.low == -matrix.scale.high


def test_a_store_compared_with_itself_differs_nowhere(digits_store):
    pair = {name: Source(name, digits_store) for name in ("a", "b")}
    for one in pair.values():
        one.follow()
    matrix = read_matrix(fit(State(site=SITE, versus="store:b"), pair))
    assert matrix.read(slice(None)).any() == np.False_


@pytest.mark.parametrize("kind", ["csv", "parquet", "npy"])
def test_a_download_holds_what_is_shown(sources, kind):
    query = State(site=SITE, rows=(2, 7), neurons="score").query()
    content, matrix = make_file(sources, query, kind), matrix_of(sources, neurons="score")
    if kind == "npy":
        np.testing.assert_array_equal(np.load(io.BytesIO(content)), matrix.read(slice(2, 7)))
        return
    table = pandas.read_csv(io.BytesIO(content)) if kind == "csv" else pandas.read_parquet(io.BytesIO(content))
    np.testing.assert_array_equal(table["neuron"], matrix.neurons[2:7])
    np.testing.assert_array_equal(table.drop(columns="neuron").to_numpy(np.float32), matrix.read(slice(2, 7)))
    assert list(table.columns[1:]) == [f"sample_{column}" for column in matrix.columns]


def test_a_download_of_another_format_is_refused(sources):
    with pytest.raises(ViewError, match="format is 'exe'; it can be csv, parquet, npy"):
        make_file(sources, "", "exe")


def ask(path="/", host="127.0.0.1:5000", method="GET", cookie=""):
    headers = HTTPHeaders({"Host": host, "Cookie": cookie} if cookie else {"Host": host})
    return HTTPServerRequest(start_line=RequestStartLine(method, path, "HTTP/1.1"), headers=headers)


def test_only_its_own_hosts_paths_and_methods_are_answered():
    access = Access(frozenset({"127.0.0.1:5000", "localhost:5000"}), "")
    refuse = lambda **request: (access.refuse(ask(**request)) or (200, ""))[0]
    assert [refuse(), refuse(host="localhost:5000"), refuse(path="/ws"), refuse(path="/?site=a")] == [200] * 4
    assert [refuse(host="evil.example:5000"), refuse(host="127.0.0.1:80"), refuse(host="")] == [421] * 3
    bad = [
        "/components/os/path/x",
        "/static/../../etc/passwd",
        "/static/%2e%2e/x",
        "/metadata",
        "/autoload.js",
        "/etc/passwd",
    ]
    assert [refuse(path=path) for path in bad] == [404] * len(bad)
    assert refuse(method="POST") == 405


def test_any_other_address_needs_the_token():
    access = make_access("192.0.2.7", 5000)
    assert len(access.token) >= 32
    here = {"host": "192.0.2.7:5000"}
    for refused in (access.refuse(ask(**here)), access.refuse(ask(cookie="actigrad_token=guess", **here))):
        assert (refused or (200, ""))[0] == 403
    assert access.refuse(ask(cookie=f"actigrad_token={access.token}", **here)) is None
    assert access.brings_token(ask(path=f"/?token={access.token}", **here))
    assert not access.brings_token(ask(path="/?token=", **here))
    assert make_access("127.0.0.1", 5000).token == make_access("::1", 5000).token == ""


def test_an_address_that_is_none_is_told():
    with pytest.raises(ActigradError, match="--address 'example' is not an IP address"):
        make_access("example", 0)


def test_a_store_that_vanishes_is_told_and_found_again(digits_store, tmp_path):
    path, away = tmp_path / "run.zarr", tmp_path / "away"
    source = Source("run", path)
    with pytest.raises(StoreError, match="Opening"):
        source.snapshot()
    assert source.follow()
    with pytest.raises(StoreError, match="there is no store at"):
        source.snapshot()
    shutil.copytree(digits_store, path)
    assert source.follow()
    assert source.snapshot().steps == (2, 4)
    assert not source.follow()
    path.rename(away)
    assert source.follow()
    with pytest.raises(StoreError, match="there is no store at"):
        source.snapshot()


def test_a_truncated_store_is_told(digits_store, tmp_path):
    path = tmp_path / "run.zarr"
    shutil.copytree(digits_store, path)
    next(p for p in (path / "sites/head/hidden/full/activation/c").rglob("*") if p.is_file()).unlink()
    source = Source("run", path)
    source.follow()
    with pytest.raises(StoreError, match=r"damaged: sites/head/hidden/full/activation has \d of its \d+ chunks"):
        source.snapshot()


def test_a_link_out_of_the_store_is_not_followed(digits_store, tmp_path):
    path, secret = tmp_path / "run.zarr", tmp_path / "secret"
    shutil.copytree(digits_store, path)
    secret.write_text("not yours")
    chunk = next(p for p in (path / "sites/head/hidden/full/activation/c").rglob("*") if p.is_file())
    chunk.unlink()
    chunk.symlink_to(secret)
    source = Source("run", path)
    source.follow()
    with pytest.raises(StoreError, match="is a link to a file outside the store"):
        source.snapshot()


def test_a_run_that_is_going_on_shows_the_steps_that_are_whole(digits_store, tmp_path):
    path, journal = tmp_path / "run.zarr", tmp_path / "run.zarr.journal"
    shutil.copytree(digits_store, path)
    zarr.open_group(path, mode="r+", use_consolidated=False).update_attributes({"complete": False})
    journal.mkdir()
    (journal / "step=2 rows=64").touch()
    (journal / "step=4 rows=32").touch()
    source = Source("run", path)
    source.follow()
    assert source.snapshot().steps == (2,)
    assert not source.follow()
    (journal / "step=4 rows=64").touch()
    assert source.follow()
    assert source.snapshot().steps == (2, 4)
    assert source.snapshot().metric(SITE, "activation", "rms").shape[0] == 2


def test_the_cache_makes_a_value_once_and_stays_within_its_limit():
    cache, made = Cache(limit=1000), []
    make = lambda: made.append(1) or np.zeros(50)
    threads = [threading.Thread(target=cache.get, args=("a", make)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    for key in "bcd":
        cache.get(key, make)
    cache.get("a", make)
    assert len(made) == 5


def test_it_listens_before_anything_is_imported_that_takes_long():
    code = "import sys, actigrad.explorer.server; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = {
        "jax",
        "flax",
        "holoviews",
        "datashader",
        "xarray",
        "zarr",
        "dask",
        "pandas",
        "numba",
        "scipy",
        "matplotlib",
    }
    assert slow & set(done.stdout.split()) == set()


@pytest.fixture(scope="module")
def levelled(digits_store, tmp_path_factory):
    """The same store with every matrix taken for large: with levels in two orders."""
    path = tmp_path_factory.mktemp("levels") / "digits.zarr"
    shutil.copytree(digits_store, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("actigrad.pictures.matrices.SMALL", 64)
        patch.setattr("actigrad.pictures.matrices.build_levels", partial(build_levels, finest=4, coarsest=4))
        write_levels(path, ["natural", "similarity"], sites=SITE)
        source = Source("digits", path)
        source.follow()
        yield {"digits": source}


@pytest.mark.parametrize("state", [{}, {"quantity": "gradient"}, {"x": "step"}, {"neurons": "similarity"}])
def test_a_large_site_is_looked_at_through_its_levels_and_looks_the_same(sources, levelled, state):
    plain = {name: value for name, value in state.items() if name != "neurons"}
    matrix, whole = matrix_of(levelled, **state), matrix_of(sources, **plain)
    assert matrix.drawn.levels
    assert not isinstance(matrix.drawn.values, np.ndarray)
    assert not matrix.is_slow
    np.testing.assert_array_equal(matrix.columns, whole.columns)
    np.testing.assert_array_equal(matrix.read(slice(3, 7)), whole.read(slice(None))[matrix.neurons[3:7]])
    for pixels in ((8, 16), (32, 64)):
        cells = matrix.look(None, pixels)
        columns = image_columns(matrix, cells)
        values, rows = columns["image"][0], {neuron: row for row, neuron in enumerate(whole.neurons)}
        at = [rows[n] for n in columns["neuron"][0].ravel()]
        places = [whole.columns.tolist().index(column) for column in columns["column"][0].ravel()]
        np.testing.assert_array_equal(values.ravel(), whole.read(slice(None))[at, places])
    assert matrix.read(slice(None)).shape == whole.shape


def test_a_stored_order_is_offered_and_used_and_another_site_is_told_to_have_none(levelled):
    view = fit(State(site=SITE, neurons="similarity"), levelled)
    stored = open_store(view.snapshot.path)[f"sites/{SITE}/orders"]["similarity"].values
    np.testing.assert_array_equal(read_matrix(view).neurons, stored)
    assert "similarity" in orders_of(view.snapshot, SITE)
    other = fit(State(site="head/logits", neurons="similarity"), levelled)
    assert other.state.neurons == "natural"
    assert "head/logits has no order 'similarity'" in " ".join(other.notes)


@pytest.mark.parametrize(
    "state", [{"group": "label:3"}, {"versus": "step:4"}, {"site": "block1/conv", "group": "label:3"}]
)
def test_what_is_not_held_is_read_in_pieces_and_is_the_same(digits_store, monkeypatch, state):
    def read():
        source = Source("digits", digits_store)
        source.follow()
        matrix = read_matrix(fit(State(**{"site": SITE, **state}), {"digits": source}))
        return matrix.is_slow, matrix.read(slice(None)), matrix.look(None, (5, 7)).extreme

    held = read()
    monkeypatch.setattr("actigrad.explorer.reading.HELD", 0)
    monkeypatch.setattr("actigrad.pictures.matrices.SMALL", 0)
    pieces = read()
    assert (held[0], pieces[0]) == (False, True)
    np.testing.assert_array_equal(pieces[1], held[1])
    np.testing.assert_array_equal(pieces[2], held[2])


def test_blocks_of_neurons_are_looked_at_and_not_read_out(root, tmp_path, monkeypatch):
    monkeypatch.setattr("actigrad.storage.blocks.VALUES", 8)
    monkeypatch.setattr("actigrad.storage.blocks.BLOCKS", 4)
    small = ["data.samples=16", "data.batch_size=16", "model.options.width=16", "train.steps=1", "train.record_every=1"]
    config = load_config(root / "configs/digits.yaml", [*small, f"store.path={tmp_path / 'run.zarr'}"])
    rules = [{"sites": [SITE], "keep": "summary"}, {"sites": [SITE], "quantities": ["activation"], "keep": "levels"}]
    config = type(config).model_validate(config.model_dump() | {"capture": rules, "inputs": {"keep": "none"}})
    with jax.numpy_dtype_promotion("standard"):
        run(load_job(config))
    source = Source("run", tmp_path / "run.zarr")
    source.follow()
    view = fit(State(site=SITE, neuron=3, order="natural"), {"run": source})
    matrix = read_matrix(view)
    assert (view.notes, matrix.shape, matrix.drawn.finest) == ((), (64, 16), (16, 1))
    blocks = view.snapshot.tree[f"sites/{SITE}/levels/natural/activation/samples"]
    cells = matrix.look(None, matrix.shape)
    np.testing.assert_array_equal(cells.extreme, blocks["extreme"][0].values.T)
    with pytest.raises(ViewError, match="blocks of 16 neurons were kept"):
        matrix.read(slice(0, 1))
    assert Card().read(view).card["top"] == []
    assert matrix_of({"run": source}, group="label:3").drawn.values is None
    assert "not kept sample by sample" in fit(State(site=SITE, quantity="gradient"), {"run": source}).notes[0]


def test_hover_tells_the_neuron_of_a_value_that_is_not_finite(digits_store, tmp_path):
    path = tmp_path / "run.zarr"
    shutil.copytree(digits_store, path)
    array = zarr.open_group(path, mode="r+", use_consolidated=False)[f"sites/{SITE}/full/activation"]
    values = array[...]
    values[-1, 5, 7] = np.inf
    array[...] = values
    source = Source("run", path)
    source.follow()
    matrix = read_matrix(fit(State(site=SITE, order="natural"), {"run": source}))
    columns = image_columns(matrix, matrix.look(None, matrix.shape))
    assert np.isnan(columns["image"][0][7, 5])
    assert (columns["neuron"][0][7, 5], columns["column"][0][7, 5], columns["nonfinite"][0][7, 5]) == (7, 5, 1)
    columns = image_columns(matrix, matrix.look(None, (4, 4)))
    assert columns["nonfinite"][0].sum() == 1
    assert set(map(len, image_columns(matrix, matrix.look((-9.0, -5.0, 0.0, 4.0), (4, 4))).values())) == {0}


def test_the_card_tells_the_neuron_that_the_store_holds(sources, stored):
    card, view = Card(), fit(State(site=SITE, neuron=3, rows=(1, 5), neurons="score"), sources)
    picture = card.read(view)
    told = card.show(picture)
    summary = stored[f"sites/{SITE}/summary"]
    assert told["statistics"][1] == (
        "rms",
        *(f"{float(summary[q].isel(step=-1, metric=1, neuron=3)):.3g}" for q in ("activation", "gradient")),
    )
    values = stored[f"sites/{SITE}/full"]["activation"].isel(step=-1, neuron=3).values
    assert told["top"][0][0] == int(values.argmax())
    assert told["bottom"][0][0] == int(values.argmin())
    assert [neuron for neuron, _ in told["list"]] == read_matrix(view).neurons[1:5].tolist()
    np.testing.assert_array_equal(picture.chosen, summary["activation"].isel(metric=1, neuron=3))
    assert picture.counts is not None
    assert picture.counts[0].sum() == 64
