"""Checkpoints: weights from files into the params of a model, whatever framework made either.

    files = find_checkpoints("runs/step_*.safetensors")          # in the order of their steps
    params = restore_params(params, read_checkpoint(files[0]), files[0])

reading   a file or folder to arrays by name: Orbax, safetensors, Flax msgpack, npz
matching  arrays by name into params
finding   a path, a list or a pattern to the checkpoints that are there
"""

from actigrad.checkpoints.finding import find_checkpoints
from actigrad.checkpoints.matching import restore_params
from actigrad.checkpoints.reading import read_checkpoint

__all__ = ["find_checkpoints", "read_checkpoint", "restore_params"]
