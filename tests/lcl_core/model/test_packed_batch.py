"""Packing rows into one, and the indices that the losses use."""

from __future__ import annotations

import random

import pytest
import torch

from lcl_core.common.errors import UserError
from lcl_core.model import PackedBatch
from lcl_core.model.packed_batch import hash_tensors, row_lengths
from lcl_core.objectives import build_objective
from lcl_core.ops.attention import CausalLayout
from lcl_core.specs.pretrain import ObjectiveSpec
from tests.lcl_core.reference_loss import compute_loss


def test_fixed_numerics_leave_out_pairs_without_a_context(small_config, documents, pixels):
    fixed = PackedBatch.pack(documents, pixels, small_config)
    assert fixed.pair_images.tolist() == [0, 1, 2]
    small_config.numerics = "official"
    official = PackedBatch.pack(documents, pixels, small_config)
    assert official.pair_images.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(5))
def test_the_group_of_a_pair_is_its_document_up_to_its_image(small_config, image_tokens, seed):
    """Images of other documents are no part of it. Documents begin with text or an image, and some have none."""
    draw = random.Random(seed)
    documents = [
        [draw.choice(([5], [6, 7], image_tokens)) for _ in range(draw.randint(1, 5))] for _ in range(draw.randint(1, 8))
    ]
    images = sum(part is image_tokens for parts in documents for part in parts)
    levels = torch.randn(images, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    expected, before = [], 0
    for parts in documents:
        context = []
        seen = []
        for part in parts:
            if part is image_tokens:
                if context:
                    expected.append(hash_tensors(torch.tensor(context), *seen))
                seen.append(levels[before, :, ::8, ::8])
                before += 1
            context += part
    rows = [torch.tensor([token for part in parts for token in part]) for parts in documents]
    assert PackedBatch.pack(rows, levels, small_config).pair_groups.tolist() == expected


def test_labels_are_the_text_and_the_image_starts(small_config, documents, pixels):
    batch = PackedBatch.pack(documents[:1], pixels[:1], small_config)
    assert batch.labels.tolist() == [5, 6, 7, small_config.soi_token_id, 8, small_config.eot_token_id]
    assert batch.label_positions.tolist() == [0, 1, 2, 3, 9, 10]


def test_token_zero_is_a_label_unless_official(small_config):
    rows = torch.tensor([[5, 0, 6, 0, 0]])
    nothing = torch.empty(0, 3, 16, 16)
    assert row_lengths(rows).tolist() == [3]
    assert PackedBatch.from_padded(rows, nothing, small_config).labels.tolist() == [0, 6]
    small_config.numerics = "official"
    assert PackedBatch.from_padded(rows, nothing, small_config).labels.tolist() == [6]


def test_placeholders_are_counted_per_document(small_config, image_tokens):
    soi, *placeholders, eoi = image_tokens
    long = torch.tensor([1, soi, *placeholders, placeholders[0], eoi])
    short = torch.tensor([1, soi, *placeholders[:-1], eoi])
    pixels = torch.zeros(2, 3, 16, 16)
    with pytest.raises(UserError, match="document 0"):
        PackedBatch.pack([long, short], pixels, small_config)
    small_config.numerics = "official"
    assert len(PackedBatch.pack([long, short], pixels, small_config).image_slots) == 8


def test_an_image_start_needs_its_placeholders_at_once(small_config, image_tokens):
    soi, *placeholders, eoi = image_tokens
    apart = torch.tensor([1, soi, 7, *placeholders, eoi])
    with pytest.raises(UserError, match="not followed by its placeholders"):
        PackedBatch.pack([apart], torch.zeros(1, 3, 16, 16), small_config)


@pytest.mark.parametrize("lengths", [[3], [5, 5, 5], [1, 9, 2, 30, 8, 8, 7], list(range(1, 40))])
def test_plan_lays_every_row_out_once(lengths):
    layout = CausalLayout.from_lengths(lengths)
    total = sum(lengths)
    laid_out = sum(count * length for count, length in layout.groups)
    assert laid_out <= 1.5 * total + 2
    if lengths in ([3], [5, 5, 5]):
        assert layout.padding is None  # they lie as attention wants them
        return
    assert layout.padding is not None
    assert torch.equal(layout.padding.index[layout.padding.inverse], torch.arange(total))
    assert int(layout.padding.keep.sum()) == total
    assert len(layout.padding.index) == laid_out


def test_trimming_cuts_what_no_loss_reads(small_config, documents, pixels, image_tokens):
    ends_with_image = torch.tensor([1, 5, 6, *image_tokens, 7, *image_tokens])
    image_alone = torch.tensor(image_tokens)
    rows = [ends_with_image, image_alone, documents[0]]
    whole = PackedBatch.pack(rows, pixels[:4], small_config)
    batch = whole.trim()
    soi = small_config.soi_token_id
    assert batch.lengths == (11, 1, len(documents[0]) - 1), (
        "up to its last <soi>, one token, and all but the last token"
    )
    assert batch.placed_images is not None
    assert batch.placed_images.tolist() == [0, 3]
    assert batch.token_ids[batch.image_slots].tolist() == [small_config.img_token_id] * 8
    assert batch.token_ids[batch.pair_positions].tolist() == [soi] * 3
    assert batch.pair_images.tolist() == whole.pair_images.tolist() == [0, 1, 3]
    assert torch.equal(batch.labels, whole.labels)
    assert torch.equal(batch.token_ids[batch.label_positions], whole.token_ids[whole.label_positions])
    assert torch.equal(batch.positions[batch.label_positions], whole.positions[whole.label_positions])


@pytest.mark.parametrize("name", ["lcl", "flamingo"])
def test_trimming_changes_no_loss_and_no_gradient(small_model, pixels, image_tokens, documents, name):
    config = small_model.config
    rows = [
        *documents[:1],
        torch.tensor([1, 5, 6, *image_tokens, 7, *image_tokens]),
        torch.tensor([1, 9, *image_tokens]),
    ]
    whole = PackedBatch.pack(rows, pixels[:4], config)
    objective = build_objective(ObjectiveSpec(name=name), config, seed=0)
    trimmed = objective.collate(rows, pixels[:4], config)
    assert len(trimmed.token_ids) < len(whole.token_ids)
    losses, gradients = [], []
    for batch in (whole, trimmed):
        loss = compute_loss(objective, small_model, batch).loss
        assert loss is not None
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, list(small_model.parameters()), allow_unused=True))
    torch.testing.assert_close(losses[0], losses[1])
    for expected, found in zip(*gradients, strict=True):
        assert (expected is None) == (found is None)
        if expected is not None:
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["emu", "beit3"])
def test_documents_are_whole_where_a_loss_reads_image_tokens(small_config, documents, pixels, name):
    batch = build_objective(ObjectiveSpec(name=name), small_config, seed=0).collate(documents, pixels, small_config)
    assert batch.lengths == tuple(map(len, documents))
    assert batch.placed_images is None


def test_official_documents_stay_whole(small_config, documents, pixels):
    small_config.numerics = "official"
    batch = build_objective(ObjectiveSpec(), small_config, seed=0).collate(documents, pixels, small_config)
    assert batch.lengths == tuple(map(len, documents))
