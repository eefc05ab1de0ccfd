"""Several vectors as one query."""

from __future__ import annotations

import numpy as np
import pytest

from lcl_core.collections.vector_index import combine_vectors
from lcl_core.common.errors import UserError

X, Y = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]


def test_lengths_do_not_count_and_weights_do():
    mixed = combine_vectors({"text": [9.0, 0.0, 0.0], "image": [0.0, 0.1, 0.0]}, {"text": 3.0, "image": 4.0}, 3)
    assert mixed.tolist() == pytest.approx([0.6, 0.8, 0.0])
    assert mixed.dtype == np.float32


def test_one_part_alone_is_its_own_direction_and_without_a_weight_counts_once():
    assert combine_vectors({"item": [2.0, 0.0, 0.0]}, {}, 3).tolist() == X
    assert combine_vectors({"item": X, "text": Y}, {"text": -1.0}, 3).tolist() == pytest.approx(
        [0.5**0.5, -(0.5**0.5), 0.0]
    )


def test_a_sum_without_a_direction_is_refused():
    turned = np.array([0.6, 0.8, 1e-7], np.float32)
    for parts, weights in (
        ({"text": X}, {"text": 0.0}),
        ({"text": X, "item": X}, {"text": 50.0, "item": -50.0}),
        ({"text": [0.6, 0.8, 0.0], "image": turned}, {"image": -1.0}),
    ):
        with pytest.raises(UserError) as caught:
            combine_vectors(parts, weights, 3)
        assert (caught.value.code, caught.value.field) == ("invalid_value", "weights")
    assert combine_vectors({"text": X, "item": Y}, {"text": 1e-4, "item": 0.0}, 3).tolist() == pytest.approx(X)


@pytest.mark.parametrize("vector", [[1.0, 0.0], [0.0, 0.0, 0.0], [np.inf, 0.0, 0.0], [1e300, 0.0, 0.0]])
def test_a_part_that_is_no_vector_is_named(vector):
    with pytest.raises(UserError) as caught:
        combine_vectors({"text": X, "vector": vector}, {}, 3)
    assert (caught.value.code, caught.value.field) == ("invalid_value", "vector")
