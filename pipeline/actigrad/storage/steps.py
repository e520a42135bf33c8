"""Steps: chunks of several steps, written step by step.

    steps = OpenSteps()
    region, block = steps.widen(array, [(17, 18), (0, 8), (0, 64)], block)    # steps 16 and 17, as (16, 18), …

A summary of one step is a few kilobytes, and a file for each step and array would be millions of files. So a chunk
holds several steps; the one that is being filled is held here and written anew with each of them, whole, by one rename.
What was committed is in every version of it.
"""

import numpy as np
import zarr

from actigrad.errors import StoreError
from actigrad.storage.grid import Region


class OpenSteps:
    """The last chunk of each array, which is not full yet."""

    def __init__(self):
        self._open: dict[str, tuple[int, np.ndarray]] = {}

    def widen(self, array: zarr.Array, region: Region, block: np.ndarray) -> tuple[Region, np.ndarray]:
        """The region and block with the steps before it that share its chunk.

        Raises:
            StoreError: when those are in the store and cannot be read.
        """
        (at, stop), *rest = region
        steps = array.chunks[0] if array.shards is None else 1
        first = at - at % steps
        if steps == 1 or (at == first and stop >= min(first + steps, array.shape[0])):
            return region, block
        last = min(first + steps, array.shape[0])
        if self._open.get(array.path, (None,))[0] != first:
            self._open[array.path] = (first, self._read(array, first, last))
        held = self._open[array.path][1]
        held[at - first : stop - first] = block
        return [(first, last), *rest], held.copy()

    def _read(self, array: zarr.Array, first: int, last: int) -> np.ndarray:
        """What a run before this one has written of it; fill values where it has written nothing."""
        try:
            return np.array(array[first:last])
        except Exception as error:  # whatever a codec raises
            raise StoreError(
                f"{array.path}: the chunk of steps {first}:{last} is damaged ({type(error).__name__}: {error}), and "
                "holds steps that were committed. Capture them again: actigrad repair STORE; then --resume."
            ) from error
