"""Rows of a batch: images widened, prompts masked, answers shifted by one."""

import torch

from lcl_core.evaluation.vlm.chat_format import IMAGE_PLACEHOLDER, collate, token_sequence

CAPTION = token_sequence([IMAGE_PLACEHOLDER, 7]) + token_sequence([5, 6, 2], target=True)
TALK = (
    token_sequence([9, IMAGE_PLACEHOLDER, 8])
    + token_sequence([4, 2], target=True)
    + token_sequence([8, 8, 8])
    + token_sequence([3, 2], target=True)
)


def test_a_batch_worked_by_hand():
    rows = collate([CAPTION, TALK], 3)
    assert rows.ids.tolist() == [
        [0, 0, 0, 7, 5, 6, 2, 0, 0, 0, 0, 0],
        [9, 0, 0, 0, 8, 4, 2, 8, 8, 8, 3, 2],
    ]
    assert rows.slots.tolist() == [0, 1, 2, 13, 14, 15]
    assert rows.present.sum(dim=1).tolist() == [7, 12]
    assert rows.predicts.nonzero().tolist() == [[0, 3], [0, 4], [0, 5], [1, 4], [1, 5], [1, 9], [1, 10]]
    assert rows.targets.tolist() == [5, 6, 2, 4, 2, 3, 2]


def test_left_padding_ends_all_rows_together():
    rows = collate([token_sequence([IMAGE_PLACEHOLDER, 7]), token_sequence([9, 8, 7, 6, 5, 4])], 3, left=True)
    assert rows.ids.tolist() == [[0, 0, 0, 0, 0, 7], [9, 8, 7, 6, 5, 4]]
    assert rows.present.tolist() == [[False, False, True, True, True, True], [True] * 6]
    assert rows.slots.tolist() == [2, 3, 4]


def test_what_nothing_precedes_is_not_learnt():
    rows = collate([token_sequence([5, 6], target=True)], 3)
    assert rows.targets.tolist() == [6]
    assert rows.predicts.tolist() == [[True, False]]


def test_a_text_without_a_image_has_no_slots():
    rows = collate([token_sequence([1, 2])], 3)
    assert rows.slots.dtype == torch.int64
    assert len(rows.slots) == 0
