"""The Keras callback: what it records in `fit` is what the model holds at that step, and `fit` trains as without it."""

import jax
import keras
import numpy as np
import pytest

import actigrad
from actigrad.errors import CaptureError, StoreError
from actigrad.metrics import METRICS

pytestmark = pytest.mark.usefixtures("standard_promotion")
X = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
Y = np.zeros((3, 1), np.float32)


@pytest.fixture
def standard_promotion():
    """Keras promotes ranks and dtypes freely."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def make_model(**compiled):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Dense(10, name="hidden"), keras.layers.Dense(1, name="out")])
    model.build((None, 2))
    model.compile(optimizer=keras.optimizers.SGD(1e-3), loss="mse", **compiled)
    return model


def weights(model):
    """Copies of the variables; `get_weights` warns under NumPy 2."""
    return [np.array(variable.value) for variable in model.weights]


class Watching(keras.callbacks.Callback):
    """The weights after each update."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def on_train_batch_end(self, batch, logs=None):
        self.model.jax_state_sync()
        self.seen[len(self.seen) + 1] = weights(self.model)


def rms(tree, site, i):
    return tree[f"sites/{site}/summary"]["activation"].values[i, METRICS.index("rms")]


def test_it_records_what_the_model_holds_at_each_step(tmp_path):
    model, watching = make_model(), Watching()
    record = actigrad.CaptureCallback(tmp_path / "run.zarr", X, Y, every=2, full="**")
    model.fit(X, Y, epochs=4, batch_size=3, verbose=0, callbacks=[record, watching])
    tree = actigrad.open_store(tmp_path / "run.zarr")
    assert tree.attrs["complete"]
    assert tree["samples/step"].values.tolist() == [0, 2, 4]
    (site,) = [path for path in tree.attrs["sites"] if path.endswith("hidden")]
    for i, step in ((1, 2), (2, 4)):
        kernel, bias, out, out_bias = watching.seen[step]
        hidden = X @ kernel + bias
        error = hidden @ out + out_bias - Y
        full = tree[f"sites/{site}/full"]
        np.testing.assert_allclose(full["activation"][i], hidden, rtol=1e-5)
        np.testing.assert_allclose(full["gradient"][i], 2 * error / 3 @ out.T, rtol=1e-4)
        np.testing.assert_allclose(tree["samples/loss"][i], np.mean(error**2), rtol=1e-5)
        np.testing.assert_allclose(rms(tree, site, i), np.sqrt((hidden**2).mean(0)), rtol=1e-5)


def test_fit_trains_as_it_does_without(tmp_path):
    plain, recorded = make_model(), make_model()
    history = plain.fit(X, Y, epochs=5, verbose=0)
    record = actigrad.CaptureCallback(tmp_path / "run.zarr", X, Y, every=2)
    same = recorded.fit(X, Y, epochs=5, verbose=0, callbacks=[record])
    np.testing.assert_allclose(history.history["loss"], same.history["loss"], rtol=1e-6)
    for a, b in zip(weights(plain), weights(recorded), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_second_fit_goes_on_in_the_same_store(tmp_path):
    model = make_model()
    for _ in range(2):
        record = actigrad.CaptureCallback(tmp_path / "run.zarr", X, Y, every=2)
        model.fit(X, Y, epochs=3, batch_size=3, verbose=0, callbacks=[record])
    assert actigrad.open_store(tmp_path / "run.zarr")["samples/step"].values.tolist() == [0, 2, 4, 6]


def test_integer_targets_are_the_labels_and_regularizers_are_in_the_loss(tmp_path):
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.5))
    model = keras.Sequential([dense])
    model.build((None, 2))
    model.compile(optimizer="sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    labels = np.array([0, 2, 1])
    expected = model.evaluate(X, labels, verbose=0)
    record = actigrad.CaptureCallback(tmp_path / "run.zarr", X, labels, every=1)
    model.fit(X, labels, epochs=1, verbose=0, callbacks=[record])
    samples = actigrad.open_store(tmp_path / "run.zarr")["samples"]
    assert samples["label"].values.tolist() == labels.tolist()
    np.testing.assert_allclose(samples["loss"][0], expected, rtol=1e-5)


def test_a_model_that_is_not_compiled_and_a_place_that_is_taken_are_told(tmp_path):
    record = actigrad.CaptureCallback(tmp_path / "run.zarr", X, Y)
    record.set_model(keras.Sequential([keras.layers.Dense(1)]))
    with pytest.raises(CaptureError, match=r"not compiled; call model\.compile"):
        record.on_train_begin()
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(StoreError, match=r"taken exists and is not an actigrad store"):
        make_model().fit(X, Y, verbose=0, callbacks=[actigrad.CaptureCallback(tmp_path / "taken", X, Y)])
