"""Rows: the arrays of one step put where the template says, rows gathered until they make a whole block."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from actigrad.storage.grid import Region
from actigrad.storage.template import Template


@runtime_checkable
class Sink(Protocol):
    """Where blocks go."""

    def put(self, array: str, region: Region, block: np.ndarray) -> None:
        """One block, which nobody changes afterwards."""

    def commit(self, step: int, rows: int, state: Callable[[], bytes] | None) -> None:
        """All blocks of the first `rows` samples of `step` were put; `state` gives what goes on from there."""


class StepWriter:
    """Puts the arrays of one step into a sink."""

    def __init__(self, sink: Sink, template: Template, steps: tuple[int, ...], step: int):
        self.sink, self.template, self.steps, self.step = sink, template, steps, step
        self.waiting: dict[str, tuple[int, np.ndarray]] = {}

    def has(self, array: str) -> bool:
        """Whether the array exists and keeps this step."""
        return keeps(self.template, array, self.steps, self.step)

    def whole(self, array: str, values: np.ndarray) -> None:
        """All of one step."""
        spec, at = self.template.arrays[array], self._index(array)
        values = np.asarray(values, spec.dtype).reshape(spec.shape[1:])
        self.sink.put(array, [(at, at + 1), *((0, size) for size in spec.shape[1:])], values[None])

    def rows(self, array: str, values: np.ndarray, start: int) -> None:
        """Some samples of one step; rows come in order."""
        spec = self.template.arrays[array]
        axis = spec.dims.index("sample") - 1
        stop = start + values.shape[axis]
        first, block = self.waiting.pop(array, (start, None))
        end = min(first + spec.chunks[axis + 1], spec.shape[axis + 1])
        if block is not None or stop < end:  # copied at once: what was captured is not held until a block is whole
            if block is None:
                shape = [end - first if i == axis else size for i, size in enumerate(values.shape)]
                block = np.empty(shape, spec.dtype)
            block[(slice(None),) * axis + (slice(start - first, stop - first),)] = values
        if stop < end:
            assert block is not None
            self.waiting[array] = first, block
        else:
            self._put_rows(array, values if block is None else block, first, axis)

    def close(self) -> None:
        """Nothing may be left: rows that never made a block would be lost."""
        assert not self.waiting, f"rows left over: {list(self.waiting)}"

    def _put_rows(self, array: str, block: np.ndarray, first: int, axis: int) -> None:
        at, spec = self._index(array), self.template.arrays[array]
        region = [(0, size) for size in spec.shape[1:]]
        region[axis] = (first, first + block.shape[axis])
        self.sink.put(array, [(at, at + 1), *region], block.astype(spec.dtype, copy=False)[None])

    def _index(self, array: str) -> int:
        return self.steps.index(self.step) if self.template.arrays[array].shape[0] == len(self.steps) else 0


def keeps(template: Template, array: str, steps: tuple[int, ...], step: int) -> bool:
    """Whether an array exists and keeps a step: arrays are of all recorded steps, or of the last."""
    spec = template.arrays.get(array)
    return spec is not None and (spec.shape[0] == len(steps) or step == steps[-1])
