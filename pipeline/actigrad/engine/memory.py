"""Memory: what a compiled step needs on its device, told by XLA before anything runs.

    memory = actigrad.measure_memory(actigrad.capture(loss), params, batch)
    memory.total, memory.temporary                        # bytes
    largest_batch(actigrad.capture(loss), params, batch, limit=8 << 30)

Arguments may be `jax.ShapeDtypeStruct`s: nothing is computed, no array is made. Cost: one compilation a measurement.
What XLA does not know of is not in it: other programs' buffers, the compiler's own workspace, fragmentation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from actigrad.errors import CaptureError

ATTEMPTS = 5
CLOSE_ENOUGH = 0.05


@dataclass(frozen=True)
class Memory:
    """Bytes of one call on one device.

    Attributes:
        arguments: parameters and batch.
        results: what the call returns.
        temporary: the most that is held in between.
        shared: results that take over a donated argument's place.
    """

    arguments: int
    results: int
    temporary: int
    shared: int

    @property
    def total(self) -> int:
        """All of it at once."""
        return self.arguments + self.results + self.temporary - self.shared


def measure_memory(step: Callable[..., Any], *args: Any, **kwargs: Any) -> Memory:
    """What `step(*args, **kwargs)` needs when jitted, for arguments of these shapes and shardings.

    A step that is jitted already is measured as it is, with what it donates.

    Raises:
        CaptureError: when the backend does not tell.
    """
    jitted = step if isinstance(step, jax.stages.Wrapped) else jax.jit(step)
    stats = jitted.lower(*args, **kwargs).compile().memory_analysis()
    if stats is None:
        raise CaptureError(f"the backend {jax.default_backend()!r} has no memory analysis; expected cpu, gpu or tpu.")
    return Memory(
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes,
        stats.temp_size_in_bytes,
        stats.alias_size_in_bytes,
    )


def largest_batch(
    step: Callable[..., Any], params: Any, batch: Any, *, limit: int, most: int
) -> tuple[int, Memory | None]:
    """The most samples, up to `most`, with which `step(params, batch)` needs at most `limit` bytes.

    Memory grows nearly linearly with the batch, so a line through two sizes proposes the next one, and each proposal is
    compiled: the size that is returned was measured. It is at most 5 % below the true one, or the best of five.

    Args:
        step: what is called, e.g. a captured loss.
        params: arrays or shapes.
        batch: arrays or shapes whose first axes are the samples.
        limit: bytes.
        most: where to stop looking.

    Returns:
        The number of samples and its memory; (0, None) when not even one sample fits.
    """
    measured: dict[int, Memory] = {}
    lowest, highest, proposal = 0, most + 1, min(most, max(1, _samples(batch)))
    while lowest + 1 < highest and len(measured) < ATTEMPTS and highest - lowest > CLOSE_ENOUGH * lowest:
        memory = measured[proposal] = measure_memory(step, params, _resized(batch, proposal))
        lowest, highest = (proposal, highest) if memory.total <= limit else (lowest, proposal)
        proposal = min(max(_propose(measured, limit), lowest + 1), highest - 1)
    return lowest, measured.get(lowest)


def _propose(measured: dict[int, Memory], limit: int) -> int:
    """Where a line through the two sizes nearest the limit meets it; one size more or less to begin with."""
    sizes = sorted(measured, key=lambda n: abs(measured[n].total - limit))[:2]
    if len(sizes) == 1:
        (n,) = sizes
        return 2 * n if measured[n].total <= limit else max(1, n // 2)
    a, b = sizes
    slope = (measured[a].total - measured[b].total) / (a - b)
    return int(a + (limit - measured[a].total) / slope) if slope > 0 else 2 * max(a, b)


def _samples(batch: Any) -> int:
    return jax.tree.leaves(batch)[0].shape[0]


def _resized(batch: Any, samples: int) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((samples, *leaf.shape[1:]), leaf.dtype), batch)
