"""A text goes on from a document as training reads it."""

from __future__ import annotations

import pytest
import torch

from lcl_core.common.errors import UserError
from lcl_core.data import train_bpe
from lcl_core.data.records import Document, ImageSegment, TextSegment
from lcl_core.data.sampling.document_plan import encode_document
from lcl_core.model import LCLProcessor, PackedBatch
from lcl_core.model.generation import (
    PreallocatedCache,
    TextDecoder,
    caption_prefix,
    caption_prompt_ids,
    check_context_length,
    document_prefix,
    document_prompt_ids,
)
from lcl_core.train.factory import build_model

PARTS = {
    "text first": ["a red fox", None, "sees a fish"],
    "picture first": [None, "a red fox"],
    "pictures in a row": ["two", None, None],
    "texts alone": ["a red fox", "sees"],
    "special words": ["<end_of_text> <start_of_img>", None, "<img_placehold>"],
}


@pytest.fixture(scope="module")
def processor():
    return LCLProcessor(train_bpe(["a red fox", "a blue fish"] * 5, 300), image_size=16)


@pytest.fixture
def config(small_config, processor):
    specials = processor.tokenizer.specials
    small_config.vocab_size, small_config.context_length = processor.tokenizer.vocab_size, 120
    for name in ("sot", "eot", "img", "soi", "eoi"):
        setattr(small_config, f"{name}_token_id", getattr(specials, name))
    return small_config


@pytest.fixture
def model(config):
    return build_model(config, seed=1).eval()


def trained_ids(config, processor, parts):
    """The document as the stream of a training gives it."""
    document = Document("", tuple(ImageSegment("x") if part is None else TextSegment(part) for part in parts))
    rendered = encode_document(document, processor.tokenizer, config.num_image_tokens, config.context_length, 0)
    assert rendered is not None
    return rendered[0]


@pytest.mark.parametrize("name", PARTS)
def test_the_first_step_is_the_training_forward(model, processor, documents, pixels, name):
    parts, config = PARTS[name], model.config
    whole = trained_ids(config, processor, parts)
    ids = document_prompt_ids(config, processor, parts)
    assert [*ids, config.eot_token_id] == whole
    own = pixels[: parts.count(None)]
    other = torch.tensor(trained_ids(config, processor, ["a blue fish", None]))
    with torch.no_grad():
        batch = PackedBatch.pack([other, torch.tensor(whole)], torch.cat([pixels[4:], own]), config)
        _, tokens = model.encode_images(batch.pixel_values)
        trained = model.lm_head(model.encode_documents(batch, tokens)[-2])  # what is predicted before the end
        first = TextDecoder(model)(document_prefix(model, ids, own), PreallocatedCache())[0]
    torch.testing.assert_close(first, trained, atol=2e-6, rtol=2e-6)


def test_a_caption_with_a_text_before_is_a_document_and_one_without_a_pair(model, processor, pixels):
    config = model.config
    with_context = caption_prefix(model, processor, pixels[:2], "a", "a blue fish")
    for row, image in zip(with_context, pixels[:2].split(1), strict=True):
        document = document_prefix(model, document_prompt_ids(config, processor, ["a blue fish", None, "a"]), image)
        torch.testing.assert_close(row, document[0])
    pair = [config.soi_token_id, *[config.img_token_id] * 4, config.eoi_token_id]
    assert caption_prompt_ids(config, processor) == pair
    assert caption_prompt_ids(config, processor, "a") == [*pair, *processor.tokenizer.encode("a")]


def test_too_long_a_document_is_refused_with_the_way_out(config, processor):
    fits = document_prompt_ids(config, processor, [None] * 19)
    assert len(fits) == 115
    check_context_length(config, fits, "document")
    with pytest.raises(UserError, match=r"longer than the 119 tokens.*leave out the oldest") as caught:
        check_context_length(config, document_prompt_ids(config, processor, [None] * 5000), "document")
    assert (caught.value.code, caught.value.field) == ("too_large", "document")
    with pytest.raises(UserError) as caught:
        caption_prompt_ids(config, processor, context="fox " * 200)
    assert (caught.value.code, caught.value.field) == ("too_large", "context")
