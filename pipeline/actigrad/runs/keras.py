"""Keras: a callback for `fit` that records the training into a store, as `Recorder` does in a loop of one's own.

    model.fit(x, y, epochs=50, callbacks=[actigrad.CaptureCallback("run.zarr", x[:32], y[:32], every=10)])
    actigrad.open_store("run.zarr")

What is recorded is of the samples that are given here, with the model's own compiled loss, at the start and after
every `every` updates: summaries and histograms of each layer's activation and gradient, whole arrays where asked for,
and the parameters. Everything else is the Recorder's: after the first record nothing here stops a training.

Limits: Keras on its JAX backend; the model is built and compiled before `fit` begins; the loss is as at inference
(`training=False`), with weight regularizers and without what layers add by `add_loss`.
"""

from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import keras
import numpy as np

from actigrad.errors import CaptureError
from actigrad.frameworks import observe
from actigrad.frameworks.keras import KINDS
from actigrad.runs.recorder import Recorder


class CaptureCallback(keras.callbacks.Callback):
    """Records a model while `fit` trains it.

    Args:
        path: the store; one that the same callback made before is continued.
        x: the samples to record, as `fit` takes them.
        y: their targets; integers with one axis are the samples' labels in pictures.
        options: of the `Recorder`: `every`, `sites`, `exclude`, `full`, `parameters`, `dtype`.

    Raises:
        CaptureError: as `fit` begins, when the model is not compiled or cannot be observed.
        StoreError: as `fit` begins, when something else stands at `path`.
    """

    def __init__(self, path: str | Path, x: Any, y: Any, **options: Any):
        super().__init__()
        self.path, self.options = Path(path), options
        labels = isinstance(y, np.ndarray) and y.ndim == 1 and y.dtype.kind in "iu"
        self.batch = {"x": x, "label" if labels else "y": y}
        self.record: Recorder | None = None
        self.first = 0

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Open the store, and record the model as it is."""
        model: Any = self.model
        if not getattr(model, "compiled", False):
            raise CaptureError("CaptureCallback got a model that is not compiled; call model.compile(loss=...) first.")
        apply, params = observe(model)
        recorder = Recorder(self.path, self._loss(apply), probe=self.batch, **self.options)
        self.record = recorder.__enter__()
        self.first = int(model.optimizer.iterations)
        self.record(self.first, params, self.batch)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Count updates from here; within an epoch Keras tells which batch it is."""
        model: Any = self.model
        model.jax_state_sync()
        self.first = int(model.optimizer.iterations)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Record, if it is time to."""
        step: int = self.first + batch + 1
        model: Any = self.model
        if self.record and self.record.wants(step):
            model.jax_state_sync()
            self.record(step, observe(model)[1], self.batch)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Write what is left, and complete the store."""
        if self.record:
            self.record.__exit__(None)
        self.record = None

    def _loss(self, apply: Any) -> Any:
        """What `fit` minimises, of params as `observe` has them."""
        model: Any = self.model

        def loss(params: Any, batch: Mapping[str, Any]) -> Any:
            x, y = batch["x"], batch["label"] if "label" in batch else batch["y"]
            output = apply(params, x, training=False)
            at = lambda kind, variable: reduce(lambda tree, part: tree[part], variable.path.split("/"), params[kind])
            known = [(variable, at(kind, variable)) for kind in KINDS for variable in getattr(model, kind)]
            with keras.StatelessScope(state_mapping=known):  # metrics that the loss tracks are not touched
                return model.compute_loss(x=x, y=y, y_pred=output, training=False)

        return loss
