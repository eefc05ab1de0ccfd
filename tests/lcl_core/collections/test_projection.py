from __future__ import annotations

import numpy as np
import pytest

from lcl_core.collections import projection
from lcl_core.collections.projection import kept_neighbours, project_pca
from lcl_core.common.errors import UserError


@pytest.mark.parametrize("rows", [12, 300])  # fewer and more rows than columns
def test_the_axis_of_largest_spread_comes_first(rows):
    random = np.random.default_rng(1)
    hidden = random.normal(size=(rows, 2)) * [10, 3]
    basis = np.linalg.qr(random.normal(size=(40, 2)))[0].T
    flat = project_pca(hidden @ basis + random.normal(size=40)).points
    assert flat.shape == (rows, 2)
    assert flat.dtype == np.float32
    assert np.abs(flat).max() == pytest.approx(1)
    first, second = (abs(np.corrcoef(flat[:, axis], hidden[:, axis])[0, 1]) for axis in (0, 1))
    assert first > 0.9
    assert second > 0.9
    # one scale for both axes: distances keep their proportions
    distances = np.linalg.norm(hidden - hidden[0], axis=1)[1:] / np.linalg.norm(flat - flat[0], axis=1)[1:]
    assert distances.std() / distances.mean() < 1e-3


@pytest.mark.parametrize("shape", [(0, 5), (1, 5), (6, 5), (6, 1)])
def test_vectors_that_do_not_differ_lie_at_the_origin(shape):
    found = project_pca(np.full(shape, 0.3))
    assert np.array_equal(found.points, np.zeros((shape[0], 2)))
    assert found.variance == 0


@pytest.mark.parametrize("vectors", [[1.0, 2.0], [[1.0, np.nan], [0.0, 1.0]], np.zeros((3, 0))])
def test_what_is_no_matrix_of_numbers_is_refused(vectors):
    with pytest.raises(UserError) as caught:
        project_pca(np.asarray(vectors))
    assert caught.value.code == "invalid_value"


@pytest.mark.parametrize("rows", [5, 9, 400])  # fewer than a block, as many as the columns, several blocks
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_share_of_the_variance_is_that_of_the_two_axes(rows, dtype, monkeypatch):
    monkeypatch.setattr(projection, "BLOCK_ROWS", 64)
    vectors = (np.random.default_rng(3).normal(size=(rows, 9)) * np.arange(9, 0, -1) + 5).astype(dtype)
    found = project_pca(vectors)
    wide = vectors.astype(np.float64)
    powers = np.linalg.svd(wide - wide.mean(axis=0), compute_uv=False) ** 2
    assert found.variance == pytest.approx(powers[:2].sum() / powers.sum(), rel=1e-6)
    spread = found.points.astype(np.float64).var(axis=0)
    assert spread[1] / spread[0] == pytest.approx(powers[1] / powers[0], rel=1e-4)


def unit_circle(count):
    turns = np.random.default_rng(4).permutation(count) * 2 * np.pi / count
    return np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)


def test_neighbours_on_a_faithful_plane_are_all_kept(monkeypatch):
    monkeypatch.setattr(projection, "BLOCK_ROWS", 70)
    points = unit_circle(301)
    assert kept_neighbours(3 * points, points) == 1


def test_neighbours_on_a_plane_by_chance_are_as_many_as_by_chance():
    points = unit_circle(500)
    kept = kept_neighbours(points, np.random.default_rng(5).permutation(points))
    assert kept == pytest.approx(10 / 499, abs=0.015)


def test_kept_neighbours_are_those_that_a_plain_count_finds(monkeypatch):
    monkeypatch.setattr(projection, "BLOCK_ROWS", 64)
    vectors = np.random.default_rng(6).normal(size=(200, 5)).astype(np.float32)
    points = project_pca(vectors).points
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = directions @ directions.T
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(cosines, -np.inf)
    np.fill_diagonal(distances, np.inf)
    near, on_map = np.argsort(-cosines, axis=1)[:, :4], np.argsort(distances, axis=1)[:, :4]
    common = [len(set(a) & set(b)) / 4 for a, b in zip(near.tolist(), on_map.tolist(), strict=True)]
    assert kept_neighbours(vectors, points, k=4) == pytest.approx(np.mean(common), abs=1e-6)
