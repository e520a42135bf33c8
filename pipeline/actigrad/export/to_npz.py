"""npz: everything that a store holds, one `.npy` an array, for `numpy.load` and whatever reads zip.

    arrays = numpy.load("digits.npz")
    arrays["sites/head/relu/full/activation"]               # (step, sample, neuron)

Names are the paths in the store; a part of a path that would leave the folder it is unpacked to is percent-encoded.
Written block by block, at most `BLOCK_BYTES` at a time.
"""

import re
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import numpy as np
import xarray

BLOCK_BYTES = 32 << 20


def write(tree: xarray.DataTree, path: Path, advance: Callable[[int, int], None]) -> None:
    """One file, compressed; no pickle is in it."""
    arrays = [(_member(node.path, str(name)), array) for node in tree.subtree for name, array in _variables(node)]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for done, (name, array) in enumerate(arrays):
            advance(done, len(arrays))
            with file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                for piece in _npy(array):
                    member.write(piece)
    advance(len(arrays), len(arrays))


def safe_name(name: str) -> str:
    r"""A path that stays within the folder it is unpacked to, on any system; plain names are as they are.

    >>> safe_name("head/0"), safe_name("../x"), safe_name("C:\\y")
    ('head/0', '%2E%2E/x', 'C%3A%5Cy')
    """
    parts = [quote(part, safe=" #[]()=,+@~") for part in name.strip("/").split("/")]
    return "/".join(re.sub(r"^\.+$", lambda dots: "%2E" * len(dots[0]), part) or "_" for part in parts)


def _member(group: str, name: str) -> str:
    return safe_name(f"{group}/{name}")


def _variables(node: xarray.DataTree) -> Iterator[tuple[str, xarray.DataArray]]:
    data = node.to_dataset(inherit=False)
    return ((str(name), data[name]) for name in data.variables)


def _npy(array: xarray.DataArray) -> Iterator[bytes]:
    """An `.npy` file in pieces."""
    if array.dtype.kind == "T":  # variable length: small, and no dtype of the format
        array = array.copy(data=np.array(array.values.tolist(), np.str_))
    header = BytesIO()
    descr = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(header, descr)
    yield header.getvalue()
    for piece in _blocks(array):
        yield np.ascontiguousarray(piece.values).tobytes()


def _blocks(array: xarray.DataArray) -> Iterator[xarray.DataArray]:
    """The array in C order in pieces: whole rows of the first axis that is small enough to be cut."""
    if array.nbytes <= BLOCK_BYTES or not array.ndim or not array.shape[0]:
        yield array
        return
    row = array.nbytes // array.shape[0]
    if row > BLOCK_BYTES and array.ndim > 1:
        for i in range(array.shape[0]):
            yield from _blocks(array[i])
        return
    rows = max(1, BLOCK_BYTES // max(1, row))
    for start in range(0, array.shape[0], rows):
        yield array[start : start + rows]
