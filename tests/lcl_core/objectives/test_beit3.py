"""What is masked: how much, in which form, and by what it is decided."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lcl_core.objectives import build_objective
from lcl_core.objectives.beit3 import masked_block_patches, masked_positions
from lcl_core.specs.pretrain import ObjectiveSpec
from tests.lcl_core.batch_partitions import partition_batches


@pytest.mark.parametrize(
    ("side", "ratio", "count"), [(14, 0.4, 78), (7, 0.4, 20), (4, 0.4, 6), (2, 0.9, 3), (1, 0.4, 1)]
)
def test_every_image_loses_the_same_number_of_patches(side, ratio, count):
    masks = [masked_block_patches(np.random.default_rng(seed), side, ratio) for seed in range(20)]
    assert {len(mask) for mask in masks} == {count}
    assert all((np.diff(mask) > 0).all() and mask[0] >= 0 and mask[-1] < side * side for mask in masks)
    assert side < 4 or len({tuple(mask) for mask in masks}) > 10


def test_masked_patches_lie_together():
    """Neighbours of masked patches are masked more often than by chance."""
    shares = []
    for seed in range(50):
        grid = np.zeros(14 * 14, bool)
        grid[masked_block_patches(np.random.default_rng(seed), 14, 0.4)] = True
        grid = grid.reshape(14, 14)
        shares.append((grid[:, 1:] & grid[:, :-1]).sum() / grid[:, :-1].sum())
    assert np.mean(shares) > 0.65, "0.4 by chance"


def test_places_are_a_share_of_those_there_are():
    places = np.array([3, 5, 8, 13, 21])
    for seed in range(10):
        masked = masked_positions(np.random.default_rng(seed), places, 0.5)
        assert len(masked) == 2
        assert set(masked) < set(places)
        assert (np.diff(masked) > 0).all()
    assert masked_positions(np.random.default_rng(0), places[:1], 0.1).tolist() == [3]
    assert masked_positions(np.random.default_rng(0), places[:0], 0.5).tolist() == []


def test_only_words_are_hidden_and_all_of_them_are_labels(collated, small_config):
    _, batch = collated("beit3")
    assert torch.equal(batch.token_ids[batch.label_positions], batch.labels)
    assert not set(batch.labels.tolist()) & set(small_config.special_token_ids)
    # words of the documents: 4, 3, 3, 2
    documents = torch.repeat_interleave(torch.arange(4), torch.tensor(batch.lengths))
    assert documents[batch.label_positions].bincount().tolist() == [2, 2, 2, 1]
    assert batch.token_ids[batch.target_slots].eq(small_config.img_token_id).all()
    assert len(batch.masked_patches) == 2 * 5, "two of four patches of each image"


def test_masks_come_from_a_documents_key_alone(small_config, documents, pixels):
    objective = build_objective(ObjectiveSpec(name="beit3"), small_config)
    whole, second, again = (
        partition_batches(objective, documents, pixels, small_config, [hand])[0] for hand in ([0, 1, 2, 3], [1], [1])
    )
    start, end = len(documents[0]), len(documents[0]) + len(documents[1])
    own = (whole.label_positions >= start) & (whole.label_positions < end)
    assert torch.equal(whole.label_positions[own] - start, second.label_positions)
    assert torch.equal(second.masked_patches, again.masked_patches)
    assert torch.equal(
        whole.masked_patches[(whole.masked_patches >= 4) & (whole.masked_patches < 12)] - 4, second.masked_patches
    )


def test_alternate_masking_masks_words_or_patches_of_a_document(small_config, documents, pixels):
    objective = build_objective(ObjectiveSpec(name="beit3", masking="alternate"), small_config)
    images = pixels[:1]
    kinds = set()
    for key in range(20):
        batch = objective.collate([documents[0]], images, small_config, keys=[key])
        kinds.add((len(batch.labels) > 0, len(batch.masked_patches) > 0))
    assert kinds == {(True, False), (False, True)}
