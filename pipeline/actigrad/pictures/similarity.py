"""Similarity: an order in which neurons that do alike stand beside each other.

    order = similarity_order(profiles, seed=0)       # (neuron, column): what each neuron does

What counts is the shape of a profile: each is centred and scaled to length 1, so that distances are those of
correlations. Then: principal components and mini-batch k-means of a sample of the neurons, at most 1,000 centroids;
the leaves of the centroids' average-linkage tree in optimal order, neighbours as close as the tree allows; and within a
cluster along the way from the centroid before to the one after. Optimal leaf order of n elements takes n³ steps, hence
the centroids.

Cost: 200,000 neurons with 64 columns take a few seconds on two cores (`scripts/bench/views.py`). The same profiles and
seed give the same order. Neurons whose profile is constant or not finite come last, as they are.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int
from scipy.cluster.hierarchy import leaves_list, linkage
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA

CENTROIDS, SAMPLE, COMPONENTS, PASSES = 1000, 50_000, 16, 3


def similarity_order(profiles: Float[np.ndarray, "neuron column"], seed: int = 0) -> Int[np.ndarray, "neuron"]:
    """Neurons by similarity.

    Args:
        profiles: what each neuron does, in the same columns for all.
        seed: of the sample and of the centroids.
    """
    centred = profiles - profiles.mean(1, keepdims=True, dtype=np.float64).astype(profiles.dtype)
    length = np.linalg.norm(centred, axis=1)
    known = np.isfinite(length) & (length > 0)
    live, rest = np.flatnonzero(known), np.flatnonzero(~known)
    if len(live) < 3:
        return np.concatenate([live, rest])
    points = _components((centred[live] / length[live, None]).astype(np.float32), seed)
    labels, centroids = _cluster(points, seed)
    return np.concatenate([live[_along(points, labels, centroids)], rest])


def _components(points: Float32[np.ndarray, "neuron column"], seed: int) -> Float32[np.ndarray, "neuron component"]:
    sample = _sample(points, seed)
    pca = PCA(min(COMPONENTS, *sample.shape), svd_solver="covariance_eigh" if sample.shape[1] < 500 else "randomized",
              random_state=seed).fit(sample)  # fmt: skip
    return pca.transform(points).astype(np.float32)


def _cluster(points: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The cluster of each point, and the centroids; where there are few points each is its own."""
    if len(points) <= CENTROIDS:
        return np.arange(len(points)), points
    clusters: Any = MiniBatchKMeans(
        CENTROIDS,
        batch_size=4096,
        n_init=1,  # type: ignore[arg-type]
        max_iter=PASSES,
        init="random",
        reassignment_ratio=0,
        random_state=seed,
    ).fit(_sample(points, seed))
    return clusters.predict(points), clusters.cluster_centers_


def _sample(points: np.ndarray, seed: int) -> np.ndarray:
    if len(points) <= SAMPLE:
        return points
    return points[np.random.default_rng(seed).choice(len(points), SAMPLE, replace=False)]


def _along(points: np.ndarray, labels: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Points by the leaves of their centroids, and within one by how far they are on the way to the next."""
    leaves = leaves_list(linkage(centroids.astype(np.float64), "average", optimal_ordering=True))
    place = np.empty(len(leaves), np.int64)
    place[leaves] = np.arange(len(leaves))
    before, after = leaves[np.maximum(place - 1, 0)], leaves[np.minimum(place + 1, len(leaves) - 1)]
    way = centroids[after] - centroids[before]
    progress = np.einsum("ij,ij->i", points, way[labels])
    return np.lexsort((progress, place[labels]))
