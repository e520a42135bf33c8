"""Pictures: stored arrays to what a screen can show. NumPy; no plotting library, no JAX.

order       permutations that make structure visible
similarity  the one in which neurons that do alike stand beside each other
palette     colours that belong to the run
cells       what a block of a matrix is shown as
tiles       a lazy matrix in pieces
raster      a viewport to at most as many cells as pixels
ripmap      which levels a matrix has, and in which tiles they are made
stored      levels as they lie in a store
levels      a rip-map, so that any window is one small read
lazy        what a store holds of a site as matrices, neurons by something
matrices    the same with the orders and the levels that are stored
catalogue   orders by name; orders and levels into a store
"""
