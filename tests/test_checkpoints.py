"""Checkpoints: every kind of file gives every framework's params; what does not fit is listed; no pickle unasked."""

import json
import pickle
from pathlib import Path

import equinox as eqx
import flax.linen as linen
import flax.serialization
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from actigrad.checkpoints import find_checkpoints, read_checkpoint, restore_params
from actigrad.config.records import numbered
from actigrad.errors import ConfigError
from actigrad.frameworks import observe
from actigrad.runs.job import named_leaves


class Net(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)])
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.layers[1](self.dropout(self.norm(self.layers[0](x))))


class Block(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(2)(linen.BatchNorm(use_running_average=True)(linen.Dense(4)(x)))


def build_keras():
    keras.utils.clear_session()
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.BatchNormalization()], name="net")


def build_haiku():
    model = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([5, 3])(x)))
    return model, model.init(jax.random.key(0), jnp.zeros((1, 4)))


MODELS = {
    "nnx": lambda: Net(nnx.Rngs(0)),
    "linen": lambda: (Block(), Block().init(jax.random.key(0), jnp.zeros((1, 3)))),
    "equinox": lambda: eqx.nn.MLP(3, 2, 4, 2, key=jax.random.key(0)),
    "haiku": build_haiku,
    "keras": build_keras,
}


@pytest.fixture(scope="module")
def models():
    """(params as the factory made them, others of the same shapes) of one model a framework."""
    made = {}
    for name, build in MODELS.items():
        _, params = observe(build())
        made[name] = params, jax.tree.map(_other, params)
    return made


RANDOM = np.random.default_rng(1)


def _other(leaf):
    is_floating = jnp.issubdtype(leaf.dtype, jnp.floating)
    return jnp.asarray(RANDOM.normal(size=leaf.shape), leaf.dtype) if is_floating else leaf


def assert_restored(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype, path
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(a, b, err_msg=str(path))


def nested(params):
    """As plain dicts of NumPy arrays by the params' own names, without keys of random numbers."""
    tree = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            continue
        *front, last = jax.tree_util.keystr(path, simple=True, separator="|").split("|")
        node = tree
        for part in front:
            node = node.setdefault(part, {})
        node[last] = np.asarray(leaf)
    return tree


def flat(params, separator="/"):
    leaves = named_leaves(params)
    return {name.replace("/", separator): np.asarray(leaf) for name, leaf in leaves.items()}


def save_orbax(path, params):
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), nested(params))
    return path


def save_manager(path, params):
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(path.absolute()) as manager:
        manager.save(100, args=ocp.args.StandardSave(nested(params)))
        manager.wait_until_finished()
    return path / "100"


def save_items(path, params):
    """A manager's step of two items, as training scripts keep them."""
    import orbax.checkpoint as ocp

    state = {"count": np.ones(2), "mu": nested(params)}
    with ocp.CheckpointManager(path.absolute(), item_names=("params", "opt_state")) as manager:
        items = {"params": ocp.args.StandardSave(nested(params)), "opt_state": ocp.args.StandardSave(state)}
        manager.save(100, args=ocp.args.Composite(**items))
        manager.wait_until_finished()
    return path / "100"


def save_dots(path, params):
    path = path.with_suffix(".safetensors")
    safetensors.numpy.save_file(flat(params, "."), path)
    return path


def save_slashes(path, params):
    path = path.with_suffix(".safetensors")
    safetensors.numpy.save_file(flat(params), path)
    return path


def save_shards(path, params):
    path.mkdir()
    arrays, index = flat(params), {}
    for number, name in enumerate(arrays):
        file = f"model-{number:05}-of-{len(arrays):05}.safetensors"
        safetensors.numpy.save_file({name: arrays[name]}, path / file)
        index[name] = file
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return path


def save_msgpack(path, params):
    path = path.with_suffix(".msgpack")
    path.write_bytes(flax.serialization.msgpack_serialize(nested(params)))
    return path


def save_training_state(path, params):
    """All that a Flax TrainState holds; Adam's moments have the names of the params, too."""
    moments = {"0": {"mu": nested(params), "nu": nested(params), "count": np.zeros((), np.int32)}}
    state = {"step": np.int32(7), "params": nested(params), "opt_state": moments}
    path.write_bytes(flax.serialization.msgpack_serialize(state))
    return path


def save_npz(path, params):
    np.savez(path.with_suffix(".npz"), **flat(params))
    return path.with_suffix(".npz")


SAVES = [
    save_orbax, save_manager, save_items, save_dots, save_slashes, save_shards, save_msgpack, save_training_state,
    save_npz,
]  # fmt: skip


@pytest.mark.parametrize("save", SAVES, ids=lambda save: save.__name__)
@pytest.mark.parametrize("framework", MODELS)
def test_every_kind_of_checkpoint_gives_every_frameworks_params(framework, save, models, tmp_path):
    params, saved = models[framework]
    path = save(tmp_path / "weights", saved)
    assert_restored(restore_params(params, read_checkpoint(path), path), saved)


def test_the_state_of_an_nnx_module_as_flax_saves_it_is_read(models, tmp_path):
    import orbax.checkpoint as ocp

    module = Net(nnx.Rngs(5))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", nnx.state(module))
    params, _ = models["nnx"]
    found = restore_params(params, read_checkpoint(tmp_path / "state"), "state")
    assert_restored(named_leaves(found), named_leaves(observe(module)[1]))


@pytest.mark.parametrize("framework", ["linen", "keras"])
def test_the_collections_in_front_of_names_may_be_missing_in_the_checkpoint(framework, models, tmp_path):
    params, saved = models[framework]
    bare = {name.partition("/")[2]: values for name, values in flat(saved).items()}
    assert_restored(restore_params(params, bare, "weights"), saved)
    wrapped = {f"state/params/{name}": values for name, values in flat(saved).items()}
    assert_restored(restore_params(params, wrapped, "weights"), saved)


def test_arrays_get_the_models_dtype(models):
    params, saved = models["equinox"]
    rounded = {name: values.astype(ml_dtypes.bfloat16) for name, values in flat(saved).items()}
    found = restore_params(params, rounded, "weights")
    assert_restored(found, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(leaf.dtype), saved))


def test_bfloat16_comes_out_of_safetensors_as_it_went_in(tmp_path):
    values = np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3)
    safetensors.numpy.save_file({"a": values}, tmp_path / "a.safetensors")
    found = read_checkpoint(tmp_path / "a.safetensors")["a"]
    assert (found.dtype, found.tobytes()) == (values.dtype, values.tobytes())


PARAMS = {"block": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}, "head": {"kernel": jnp.zeros((3, 1))}}


def misfit(arrays):
    with pytest.raises(ConfigError) as caught:
        restore_params(PARAMS, {name: np.zeros(shape) for name, shape in arrays.items()}, "w.safetensors")
    (problem,) = caught.value.problems
    assert problem.key == "model.checkpoint"
    assert problem.value == "w.safetensors, whose arrays do not fit the model"
    return problem.hint.splitlines()


def test_names_that_do_not_fit_are_listed_with_the_nearest():
    lines = misfit({"block.kernel": (2, 3), "block.biases": 3, "head.kernel": (3, 1), "tail.kernel": 2})
    assert lines == [
        "missing: block/bias (nearest: block/biases)",
        "      unexpected: block/biases (nearest: block/bias), tail/kernel",
    ]


def test_what_else_a_model_may_have_is_no_training_state():
    assert misfit({"block/kernel": (2, 3), "block/bias": 3, "head/kernel": (3, 1), "neck/kernel": 2, "step": 1}) == [
        "unexpected: neck/kernel"
    ]


def test_shapes_that_do_not_fit_are_listed_with_both():
    assert misfit({"block/kernel": (3, 2), "block/bias": (3,), "head/kernel": (3, 2)}) == [
        "of another shape: block/kernel is (3, 2) there and (2, 3) in the model, "
        "head/kernel is (3, 2) there and (3, 1) in the model"
    ]


def test_long_lists_are_cut():
    (missing, unexpected) = misfit({f"other/{i}": 1 for i in range(30)})
    assert missing.startswith("missing: block/bias")
    assert unexpected.endswith("and 22 more")


def test_arrays_that_are_there_twice_are_ambiguous():
    arrays = {f"{front}/{name}": values for front in ("a", "b") for name, values in flat(PARAMS).items()}
    with pytest.raises(ConfigError, match="holds the model's arrays under a, b, expected them once"):
        restore_params(PARAMS, arrays, "w")
    arrays |= {f"params/{name}": values + 1 for name, values in flat(PARAMS).items()}
    assert restore_params(PARAMS, arrays, "w")["head"]["kernel"].sum() == 3


def test_the_moments_of_an_optimizer_are_not_taken_for_the_params():
    arrays = {f"{front}/{name}": values for front in ("net", "opt_state/mu") for name, values in flat(PARAMS).items()}
    arrays |= {name: values + 1 for name, values in arrays.items() if name.startswith("net")}
    assert restore_params(PARAMS, arrays, "w")["head"]["kernel"].sum() == 3


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_no_pickle_is_loaded_unless_the_config_trusts_it(tmp_path):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "w.msgpack").write_bytes(pickle.dumps(Bomb()))  # what it is called does not matter
    np.savez(tmp_path / "w.npz", x=np.array([Bomb()], dtype=object))
    for name in ("w.pkl", "w.msgpack", "w.npz"):
        with pytest.raises(
            ConfigError, match=r"read by pickle, expected a file without(.|\n)*model.trust: pickle; better"
        ):
            read_checkpoint(tmp_path / name)
        with pytest.raises(pytest.fail.Exception, match="a pickle was loaded"):
            read_checkpoint(tmp_path / name, "pickle")


def test_a_trusted_pickle_is_read(tmp_path):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": {"b": np.ones(2)}}))
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "w.pkl", "pickle")["a/b"], [1, 1])


def test_what_pytorch_writes_is_a_pickle(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("w/data.pkl", pickle.dumps({}))
    with pytest.raises(ConfigError, match=r"read by pickle"):
        read_checkpoint(tmp_path / "w.pt")


def test_what_is_no_checkpoint_or_broken_is_told(tmp_path):
    (tmp_path / "w.txt").write_text("weights")
    with pytest.raises(ConfigError, match=r"found '.*w.txt', expected an Orbax folder, a safetensors file"):
        read_checkpoint(tmp_path / "w.txt")
    (tmp_path / "w.msgpack").write_bytes(b"\x82\xa1")
    with pytest.raises(ConfigError, match=r"w.msgpack', which could not be read: \w+"):
        read_checkpoint(tmp_path / "w.msgpack")


def test_a_folder_of_checkpoints_says_how_to_name_them(tmp_path, models):
    save_manager(tmp_path / "all", models["haiku"][1])
    with pytest.raises(ConfigError, match=r"It holds 100: name one, or all of them as '.*all/\*'"):
        read_checkpoint(tmp_path / "all")


# Finding


def test_a_pattern_gives_what_is_there_by_its_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for step in (100, 20, 3):
        Path(f"step_{step}").touch()
        Path(f"{step}").mkdir()
    Path("step_4.orbax-checkpoint-tmp").touch()
    assert find_checkpoints("step_*") == ("step_3", "step_20", "step_100")
    assert find_checkpoints("[0-9]*") == ("3", "20", "100")
    assert find_checkpoints(("step_20", "[0-9]", "100")) == ("3", "step_20", "100")
    assert find_checkpoints("step_20") == "step_20"
    assert find_checkpoints(("step_20",)) == ("step_20",)


@pytest.mark.parametrize("asked", ["none", "none*", ("none",), ("none*",), ()])
def test_what_is_not_there_is_told(asked):
    with pytest.raises(ConfigError, match=r"model.checkpoint\n.*expected (a|at least one) (checkpoint|pattern)"):
        find_checkpoints(asked)


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (("step_20", "step_100"), (20, 100)),
        (("checkpoint-200.safetensors", "checkpoint-30.safetensors"), (200, 30)),
        (("run3/v2-100", "run3/v2-7"), (100, 7)),
        (("a/checkpoint-2/model.safetensors", "a/checkpoint-10/model.safetensors"), (2, 10)),
        (("runs/1/x/a.msgpack", "runs/1/x/b.msgpack"), (0, 1)),
        (("step_1", "last"), (0, 1)),
        (("000100/", "000200/"), (100, 200)),
    ],
)
def test_the_step_of_a_checkpoint_is_in_its_name(names, steps):
    assert numbered(names) == steps
