"""Storage: one Zarr v3 group that xarray opens alone. NumPy in, NumPy out; no JAX.

grid          chunks, blocks and segments in plain integers
schema        sites and a config to the final shape of a store
journal       what is on the disk for sure
store         create, open, describe
writer        blocks to disk by several threads
verification  every chunk against its checksum
"""
