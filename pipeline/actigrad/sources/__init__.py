"""Sources: samples from anywhere as batches, read beside the device and the same ones at every recorded step.

    source = open_source(partial(open_path, "images.npz"), key="data.path", samples=None, batch_size=256)
    source.fields                                      # {"image": Field("float32", (8, 8, 1)), "label": ...}
    for (start, stop), batch in read_ahead(source.read(rows, blocks)): ...

A table gives any samples that are asked for and stays where it is: in memory, or on the disk. A stream only gives batch
after batch; it is opened anew for each pass, and what it gives is checked against the first pass.

base       what a source is, and what of a sample can be kept
tables     samples at random: arrays, xarray, sequences of samples
arrow      the same of Arrow tables, Parquet, Feather, Hugging Face datasets
streams    batches one after another: generators, loaders, Grain
files      a path to one of these
opening    what a factory returns to one of these
ahead      a thread that reads the next batches
digests    samples to a fingerprint
"""

from actigrad.sources.ahead import read_ahead
from actigrad.sources.base import Batch, Field, Source
from actigrad.sources.files import open_path
from actigrad.sources.opening import open_source
from actigrad.sources.streams import Stream
from actigrad.sources.tables import Table

__all__ = ["Batch", "Field", "Source", "Stream", "Table", "open_path", "open_source", "read_ahead"]
