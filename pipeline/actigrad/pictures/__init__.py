"""Pictures: stored arrays to what a screen can show. NumPy; no plotting library, no JAX.

order     permutations that make structure visible
raster    a viewport to at most as many cells as pixels
palette   colours that belong to the run
"""
