"""Packing rows into one, and the indices that the losses use."""

from __future__ import annotations

import pytest
import torch

from lcl_core.common.errors import UserError
from lcl_core.model import LCLConfig, PackedBatch
from lcl_core.model.packed_batch import row_lengths
from lcl_core.ops.attention import CausalLayout


def test_fixed_numerics_leave_out_pairs_without_a_context(
    small_config: LCLConfig, documents: list[torch.Tensor], pixels: torch.Tensor
) -> None:
    fixed = PackedBatch.pack(documents, pixels, small_config)
    assert fixed.pair_images.tolist() == [0, 1, 2]
    small_config.numerics = "official"
    official = PackedBatch.pack(documents, pixels, small_config)
    assert official.pair_images.tolist() == [0, 1, 2, 3]


def test_labels_are_the_text_and_the_image_starts(
    small_config: LCLConfig, documents: list[torch.Tensor], pixels: torch.Tensor
) -> None:
    batch = PackedBatch.pack(documents[:1], pixels[:1], small_config)
    assert batch.labels.tolist() == [5, 6, 7, small_config.soi_token_id, 8, small_config.eot_token_id]
    assert batch.label_positions.tolist() == [0, 1, 2, 3, 9, 10]


def test_no_label_crosses_a_document(small_config: LCLConfig) -> None:
    batch = PackedBatch.pack([torch.tensor([1, 2]), torch.tensor([3, 4])], torch.empty(0, 3, 16, 16), small_config)
    assert batch.labels.tolist() == [2, 4]


def test_token_zero_is_a_label_unless_official(small_config: LCLConfig) -> None:
    rows = torch.tensor([[5, 0, 6, 0, 0]])
    nothing = torch.empty(0, 3, 16, 16)
    assert row_lengths(rows).tolist() == [3]
    assert PackedBatch.from_padded(rows, nothing, small_config).labels.tolist() == [0, 6]
    small_config.numerics = "official"
    assert PackedBatch.from_padded(rows, nothing, small_config).labels.tolist() == [6]


def test_placeholders_are_counted_per_document(small_config: LCLConfig, image_tokens: list[int]) -> None:
    soi, *placeholders, eoi = image_tokens
    long = torch.tensor([1, soi, *placeholders, placeholders[0], eoi])
    short = torch.tensor([1, soi, *placeholders[:-1], eoi])
    pixels = torch.zeros(2, 3, 16, 16)
    with pytest.raises(UserError, match="document 0"):
        PackedBatch.pack([long, short], pixels, small_config)
    small_config.numerics = "official"
    assert len(PackedBatch.pack([long, short], pixels, small_config).image_slots) == 8


def test_an_image_start_needs_its_placeholders_at_once(small_config: LCLConfig, image_tokens: list[int]) -> None:
    soi, *placeholders, eoi = image_tokens
    apart = torch.tensor([1, soi, 7, *placeholders, eoi])
    with pytest.raises(UserError, match="not followed by its placeholders"):
        PackedBatch.pack([apart], torch.zeros(1, 3, 16, 16), small_config)


@pytest.mark.parametrize(
    ("rows", "images", "message"),
    [
        ([], 0, "at least one document"),
        ([torch.tensor([], dtype=torch.long)], 0, "no document may be empty"),
        ([torch.ones(41, dtype=torch.long)], 0, "41 tokens, the position table 40"),
        ([torch.tensor([1, 2])], 1, "1 images need 4 placeholders"),
    ],
)
def test_bad_documents_are_refused(
    small_config: LCLConfig, rows: list[torch.Tensor], images: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        PackedBatch.pack(rows, torch.zeros(images, 3, 16, 16), small_config)


@pytest.mark.parametrize("lengths", [[3], [5, 5, 5], [1, 9, 2, 30, 8, 8, 7], list(range(1, 40))])
def test_plan_lays_every_row_out_once(lengths: list[int]) -> None:
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
