"""How long it takes to list the sites of a 70-billion-parameter decoder, and how much memory: shapes alone are made.

    .venv/bin/python scripts/bench/sites.py                 # scanned blocks
    .venv/bin/python scripts/bench/sites.py --unrolled      # every block of its own: 1,109 sites

Seconds are those of the processor, as those of the clock tell who else is at work.
"""

import argparse
import json
import re
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import nnx

import actigrad
from actigrad.zoo import decoder


def peak_gib() -> float:
    """Most memory this process ever held. `getrusage` would count that of the process that started it, too."""
    (kib,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return round(int(kib) / 2**20, 2)


def main() -> None:
    """Build on shapes, observe, list, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unrolled", action="store_true")
    parser.add_argument("--layers", type=int, default=85)
    words = parser.parse_args()
    sizes = {"layers": words.layers, "width": 8192, "heads": 64, "context": 4096, "vocab": 128_256}
    model = nnx.eval_shape(lambda: decoder.build(**sizes, scan=not words.unrolled))
    tokens = jax.ShapeDtypeStruct((8, 4096), np.int32)
    began = time.process_time()
    apply, params = actigrad.observe(model)
    sites = actigrad.list_sites(partial(decoder.loss, apply), params, {"tokens": tokens, "next": tokens})
    told = {
        "parameters": sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params)),
        "sites": len(sites),
        "seconds": round(time.process_time() - began, 2),
        "peak_gib": peak_gib(),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
