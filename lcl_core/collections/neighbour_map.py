"""Vectors on a plane by t-SNE: images that are neighbours by their vectors are neighbours on the map.

A process of its own, at low priority, since the optimisation takes seconds of a core that searches would miss:
``python -m lcl_core.collections.neighbour_map VECTORS.npy POINTS.npy``. Method: L. van der Maaten and G. Hinton,
"Visualizing data using t-SNE", JMLR 9 (2008), with the Barnes-Hut approximation of openTSNE.
"""

from __future__ import annotations

import os
import sys

import numpy as np
from openTSNE import TSNE

PERPLEXITY = 30.0
MIN_ROWS = 5  # fewer have no neighbourhoods
# As many as change the map: of 3,835 drawings, .507 of the ten nearest are kept after these, .505 after twice as many.
EXAGGERATED_STEPS, STEPS = 100, 250


def project_neighbours(vectors: np.ndarray) -> np.ndarray:
    """f32 [n, 2] within [-1, 1], centred, on one scale; the same for the same vectors [n, E] of length 1.

    Fewer than ``MIN_ROWS`` rows lie at the origin.
    """
    if len(vectors) < MIN_ROWS:
        return np.zeros((len(vectors), 2), np.float32)
    method = TSNE(
        perplexity=min(PERPLEXITY, (len(vectors) - 1) / 3),
        early_exaggeration_iter=EXAGGERATED_STEPS,
        n_iter=STEPS,
        initialization="pca",
        neighbors="exact",
        negative_gradient_method="bh",
        random_state=0,
        n_jobs=1,
    )
    points = np.asarray(method.fit(np.asarray(vectors, np.float32)), np.float64)
    points -= (points.max(axis=0) + points.min(axis=0)) / 2
    reach = np.abs(points).max()
    return (points / reach if reach > 0 else points).astype(np.float32)


def main(source: str, target: str) -> None:
    os.nice(10)
    np.save(target, project_neighbours(np.load(source, allow_pickle=False)))


if __name__ == "__main__":
    main(*sys.argv[1:])
