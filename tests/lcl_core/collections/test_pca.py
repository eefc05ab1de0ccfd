from __future__ import annotations

import numpy as np
import pytest

from lcl_core.collections.preview import pca_2d
from lcl_core.common.errors import UserError


@pytest.mark.parametrize("rows", [12, 300])  # fewer and more rows than columns
def test_the_axis_of_largest_spread_comes_first(rows: int) -> None:
    random = np.random.default_rng(1)
    hidden = random.normal(size=(rows, 2)) * [10, 3]
    basis = np.linalg.qr(random.normal(size=(40, 2)))[0].T
    flat = pca_2d(hidden @ basis + random.normal(size=40))
    assert flat.shape == (rows, 2)
    assert flat.dtype == np.float32
    assert np.abs(flat).max() == pytest.approx(1)
    first, second = (abs(np.corrcoef(flat[:, axis], hidden[:, axis])[0, 1]) for axis in (0, 1))
    assert first > 0.9
    assert second > 0.9
    # one scale for both axes: distances keep their proportions
    distances = np.linalg.norm(hidden - hidden[0], axis=1)[1:] / np.linalg.norm(flat - flat[0], axis=1)[1:]
    assert distances.std() / distances.mean() < 1e-3


def test_the_same_vectors_give_the_same_map() -> None:
    vectors = np.random.default_rng(2).normal(size=(50, 8))
    assert np.array_equal(pca_2d(vectors), pca_2d(vectors.copy()))


@pytest.mark.parametrize("shape", [(0, 5), (1, 5), (6, 5), (6, 1)])
def test_vectors_that_do_not_differ_lie_at_the_origin(shape: tuple[int, int]) -> None:
    assert np.array_equal(pca_2d(np.full(shape, 0.3)), np.zeros((shape[0], 2)))


def test_one_column_gives_one_axis() -> None:
    assert pca_2d(np.array([[0.0], [1.0], [2.0]])).tolist() == [[-1, 0], [0, 0], [1, 0]]


@pytest.mark.parametrize("vectors", [[1.0, 2.0], [[1.0, np.nan], [0.0, 1.0]], np.zeros((3, 0))])
def test_what_is_no_matrix_of_numbers_is_refused(vectors: object) -> None:
    with pytest.raises(UserError) as caught:
        pca_2d(np.asarray(vectors))
    assert caught.value.code == "bad_vectors"
