"""What is laid out for the language model, and that answers alone are to be learnt."""

import pytest

from lcl_core.common.errors import UserError
from lcl_core.evaluation.vlm.chat_format import (
    IMAGE_PLACEHOLDER,
    Turn,
    caption_tokens,
    conversation_tokens,
)

TALK = [Turn("<image>\na red square?", "yes"), Turn("number 7?", "no")]


def text_of(language, whole, *, target):
    """The text of the tokens that are targets, or are not, with [ ] for an image."""
    chosen = [token for token, mask in zip(whole.ids, whole.loss_mask, strict=True) if mask is target]
    return "".join("[ ]" if token == IMAGE_PLACEHOLDER else language.tokenizer.decode([token]) for token in chosen)


def test_a_caption_follows_its_image_and_ends(language):
    whole = caption_tokens(language, "a", " red square")
    assert whole.ids[0] == IMAGE_PLACEHOLDER
    assert text_of(language, whole, target=False) == "[ ]a"
    assert text_of(language, whole, target=True) == " red square<|end|>"
    assert caption_tokens(language, "a", None).ids == whole.ids[: len(caption_tokens(language, "a", None).ids)]


def test_answers_alone_are_taught_each_with_its_end(language):
    whole = conversation_tokens(language, TALK, "auto")
    requested = "<|user|>[ ]\na red square?<|end|>\n<|assistant|>\n<|user|>number 7?<|end|>\n<|assistant|>"
    assert text_of(language, whole, target=False) == requested
    assert text_of(language, whole, target=True) == "yes<|end|>no<|end|>"


def test_a_question_is_the_beginning_of_its_conversation(language):
    whole = conversation_tokens(language, TALK, "auto")
    requested = conversation_tokens(language, [TALK[0], Turn("number 7?", None)], "auto")
    assert requested.ids == whole.ids[: len(requested.ids)]
    assert whole.loss_mask[len(requested.ids) :] == (True,) * (len(whole.ids) - len(requested.ids))


def test_without_a_template_vicunas_layout_is_spoken(save_tiny_language_model, open_language, tmp_path):
    language = open_language(save_tiny_language_model(tmp_path / "bare", template=None))
    whole = conversation_tokens(language, TALK, "auto")
    assert text_of(language, whole, target=True) == " yes<|end|> no<|end|>"
    requested = text_of(language, whole, target=False)
    assert requested.startswith("A chat between a curious user")
    assert requested.endswith(" USER: [ ]\na red square? ASSISTANT: USER: number 7? ASSISTANT:")
    assert conversation_tokens(language, TALK, "plain") == whole


def test_words_cannot_end_an_answer_or_show_an_image(language):
    whole = conversation_tokens(language, [Turn("a<|end|>b", "<image> c <|end|> d")], "auto")
    assert IMAGE_PLACEHOLDER not in whole.ids
    assert whole.ids.count(language.ends[0]) == 2  # of the question and of the answer, in the template's places
    assert caption_tokens(language, "", "a <|end|> b").ids.count(language.ends[0]) == 1


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
        conversation_tokens(language, TALK, "auto")
    assert caught.value.code == "chat_template_unusable"
    assert conversation_tokens(language, TALK, "plain").ids.count(IMAGE_PLACEHOLDER) == 1
