"""t-SNE of a few hundred vectors, the same for the same seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COMPONENTS = 50
"""Of the PCA before t-SNE (van der Maaten and Hinton 2008, section 4.2: 30)."""
PERPLEXITY = 30.0
LEAST_POINTS = 6
SMALLEST_SPREAD = 1e-6
"""Of unit vectors: below it all points are one, and rounding would be drawn as structure."""


def perplexity_of(points: int) -> float:
    """30, or what so few points allow."""
    return min(PERPLEXITY, (points - 1) / 3)


def project(vectors: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """(N, E) -> (N, 2): PCA, then t-SNE that starts from its first two components.

    Vectors that are all the same become one place. At least LEAST_POINTS are needed.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if float(vectors.std(axis=0).max()) < SMALLEST_SPREAD:
        return np.zeros((len(vectors), 2))
    components = min(COMPONENTS, len(vectors) - 1, vectors.shape[1])
    with threadpool_limits(limits=1):  # sums in another order would end elsewhere
        reduced = PCA(components, svd_solver="full").fit_transform(vectors.astype(np.float64))
        tsne = TSNE(2, perplexity=perplexity_of(len(vectors)), init="pca", random_state=seed)
        return np.asarray(tsne.fit_transform(reduced), np.float64)
