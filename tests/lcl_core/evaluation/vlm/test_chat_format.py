"""What is laid out for the language model, that answers alone are to be learnt, and rows of a batch."""

import pytest

from lcl_core.common.errors import UserError
from lcl_core.evaluation.vlm.language_model import (
    IMAGE_PLACEHOLDER,
    Turn,
    caption_tokens,
    collate,
    conversation_tokens,
    token_sequence,
)

TALK = [Turn("<image>\na red square?", "yes"), Turn("number 7?", "no")]


def text_of(language, whole, *, target):
    """The text of the tokens that are targets, or are not, with [ ] for an image."""
    chosen = [token for token, mask in zip(whole.ids, whole.loss_mask, strict=True) if mask is target]
    return "".join("[ ]" if token == IMAGE_PLACEHOLDER else language.tokenizer.decode([token]) for token in chosen)


def test_a_caption_follows_its_image_and_ends(language):
    whole = caption_tokens(language, "a red square")
    assert whole.ids[0] == IMAGE_PLACEHOLDER
    assert text_of(language, whole, target=False) == "[ ]"
    assert text_of(language, whole, target=True) == "a red square<|end|>"
    assert caption_tokens(language, None).ids == whole.ids[:1]


def test_answers_alone_are_taught_each_with_its_end(language):
    whole = conversation_tokens(language, TALK)
    requested = "<|user|>[ ]\na red square?<|end|>\n<|assistant|>\n<|user|>number 7?<|end|>\n<|assistant|>"
    assert text_of(language, whole, target=False) == requested
    assert text_of(language, whole, target=True) == "yes<|end|>no<|end|>"


def test_a_question_is_the_beginning_of_its_conversation(language):
    whole = conversation_tokens(language, TALK)
    requested = conversation_tokens(language, [TALK[0], Turn("number 7?", None)])
    assert requested.ids == whole.ids[: len(requested.ids)]
    assert whole.loss_mask[len(requested.ids) :] == (True,) * (len(whole.ids) - len(requested.ids))


def test_without_a_template_vicunas_layout_is_spoken(save_tiny_language_model, open_language, tmp_path):
    language = open_language(save_tiny_language_model(tmp_path / "bare", template=None))
    whole = conversation_tokens(language, TALK)
    assert text_of(language, whole, target=True) == " yes<|end|> no<|end|>"
    requested = text_of(language, whole, target=False)
    assert requested.startswith("A chat between a curious user")
    assert requested.endswith(" USER: [ ]\na red square? ASSISTANT: USER: number 7? ASSISTANT:")


def test_words_cannot_end_an_answer_or_show_an_image(language):
    whole = conversation_tokens(language, [Turn("a<|end|>b", "<image> c <|end|> d")])
    assert IMAGE_PLACEHOLDER not in whole.ids
    assert whole.ids.count(language.ends[0]) == 2  # of the question and of the answer, in the template's places
    assert caption_tokens(language, "a <|end|> b").ids.count(language.ends[0]) == 1


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages | length }}{% for message in messages %}{{ message['content'] }}{% endfor %}", "rewrites"),
        ("{{ raise_exception('only one turn') }}", "only one turn"),
    ],
)
def test_a_template_that_cannot_be_used_is_named(save_tiny_language_model, open_language, tmp_path, template, words):
    language = open_language(save_tiny_language_model(tmp_path / "odd", template=template))
    with pytest.raises(UserError, match=words) as caught:
        conversation_tokens(language, TALK)
    assert caught.value.code == "language_model_unreadable"


CAPTION = token_sequence([IMAGE_PLACEHOLDER, 7]) + token_sequence([5, 6, 2], target=True)
TOKENS = (
    token_sequence([9, IMAGE_PLACEHOLDER, 8])
    + token_sequence([4, 2], target=True)
    + token_sequence([8, 8, 8])
    + token_sequence([3, 2], target=True)
)


def test_a_batch_worked_by_hand():
    rows = collate([CAPTION, TOKENS], 3)
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
