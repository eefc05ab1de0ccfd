from __future__ import annotations

import numpy as np
import pytest

from lcl_core.collections.projection import kept_neighbours, main, project_neighbours, project_pca


def groups(count, size, width=32):
    """f32 [count × size, width] of length 1: tight groups in directions of their own."""
    random = np.random.default_rng(0)
    centres = np.repeat(np.linalg.qr(random.normal(size=(width, width)))[0][:count], size, axis=0)
    rows = centres + 0.1 * random.normal(size=(count * size, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_groups_that_two_axes_mix_are_apart():
    vectors = groups(12, 20)
    points = project_neighbours(vectors)
    assert points.dtype == np.float32
    assert np.abs(points).max() == pytest.approx(1)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert np.array_equal(distances.argmin(axis=1) // 20, np.arange(240) // 20)
    ours, axes = (kept_neighbours(vectors, found) for found in (points, project_pca(vectors).points))
    assert ours is not None
    assert axes is not None
    assert ours > 1.5 * axes


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_few_vectors_lie_at_the_origin(rows):
    assert np.array_equal(project_neighbours(groups(4, 10)[:rows]), np.zeros((rows, 2)))


@pytest.mark.parametrize("rows", [5, 8])
def test_equal_vectors_have_places(rows):
    found = project_neighbours(np.repeat(groups(1, 1), rows, axis=0))
    assert found.shape == (rows, 2)
    assert np.isfinite(found).all()


def test_the_process_reads_half_precision(tmp_path, monkeypatch):
    monkeypatch.setattr("os.nice", lambda _: None)  # of the process of the tests
    vectors = groups(4, 10).astype(np.float16)
    np.save(tmp_path / "vectors.npy", vectors)
    main(str(tmp_path / "vectors.npy"), str(tmp_path / "points.npy"))
    assert np.array_equal(np.load(tmp_path / "points.npy"), project_neighbours(vectors))
