"""Blocks: what `keep: levels` keeps of each sample at a site, in place of the whole array.

    >>> site = Site("hidden", (256, 16_384), "float32", ("sample", "neuron"))
    >>> block_size(site), len(block_counts(site)), BLOCK_BYTES * 256 / (4 * 16_384)
    (64, 256, 0.05078125)

Blocks of neighbouring neurons, each reduced to what a cell of a level is: they are the finest level of the picture of
neurons by samples, and the coarser ones are built of them after the run. A site of few values a sample is kept whole.
"""

import math
from collections.abc import Mapping
from typing import Any

from actigrad.sites import Site

VALUES, BLOCKS = 64, 64
"""Values that a block stands for at least, and blocks that a sample has at least: with fewer it is kept whole."""
FIELDS = {
    "extreme": ("float32", "finite value of largest magnitude in the block"),
    "neuron": ("int8", "at which place of the block it stands; -1 where there is none"),
    "mean": ("float32", "mean of the finite values in the block"),
    "nonfinite": ("int32", "number of values in the block that are NaN or infinite"),
}
"""Arrays (step, sample, block): dtype and long name."""
BLOCK_BYTES = 4 + 1 + 4 + 4
"""Of a block of one sample."""


def block_size(site: Site) -> int | None:
    """Neurons of a block; None where the site is so small that it is kept whole.

    The smallest power of four with which a block stands for 64 values of a sample, those of positions and loops
    included: so blocks take at most a nineteenth of the bytes of the whole array in float32.
    """
    values, size = math.prod(site.sample_shape), 1
    while size * values < VALUES * neurons_of(site):
        size *= 4
    return size if values > VALUES * BLOCKS else None


def block_counts(site: Site) -> list[int]:
    """How many values each block of a sample stands for, those of all loops together."""
    size, neurons = block_size(site) or 1, neurons_of(site)
    inner = math.prod(site.sample_shape) // max(1, neurons)
    return [inner * min(size, neurons - start) for start in range(0, neurons, size)]


def blocks_attrs(site: Site, quantity: str) -> Mapping[str, Any]:
    """Of the group of a site's blocks."""
    return {
        "site": site.path, "quantity": quantity, "rows": "neuron", "columns": "sample", "neurons": neurons_of(site),
        "neurons_per_block": block_size(site), "values_per_neuron": block_counts(site)[0] // (block_size(site) or 1),
    }  # fmt: skip


def neurons_of(site: Site) -> int:
    """How many neurons a site has; one where no axis is theirs."""
    return site.shape[-1] if "neuron" in site.dims else 1
