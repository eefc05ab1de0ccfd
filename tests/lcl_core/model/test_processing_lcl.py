"""Images and texts to tensors and back, through files and the Auto class."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from lcl_core.data import train_bpe
from lcl_core.model import LCLProcessor


@pytest.fixture(scope="module")
def processor():
    return LCLProcessor(train_bpe(["a red fox", "a blue fish", "the red fish"] * 5, 400), image_size=16)


def test_images_of_any_size_become_squares(processor):
    pixels = processor.preprocess([Image.new("RGB", (40, 20), "white"), Image.new("RGB", (9, 30), "black")])
    assert pixels.shape == (2, 3, 16, 16)
    assert pixels.dtype == torch.float32
    assert float(pixels[0].min()) > 1.5 > -1.4 > float(pixels[1].max())
    assert processor.preprocess([]).shape == (0, 3, 16, 16)


def test_texts_are_framed_and_padded(processor):
    specials = processor.tokenizer.specials
    short, long = processor.encode_texts(["fox", "the red fish and a blue fox"]).tolist()
    assert short[0] == long[0] == specials.sot
    assert long[-1] == specials.eot
    assert short[short.index(specials.eot) + 1 :] == [0] * (len(short) - short.index(specials.eot) - 1)


def test_decoding_stops_at_the_end(processor):
    specials = processor.tokenizer.specials
    ids = [*processor.tokenizer.encode("a red fish"), specials.eot, *processor.tokenizer.encode("more")]
    assert processor.decode(ids) == "a red fish"


def test_saved_and_loaded(processor, small_config, tmp_path):
    small_config.save_pretrained(tmp_path)
    processor = LCLProcessor(processor.tokenizer, 16, "squash")
    processor.save_pretrained(tmp_path)
    for again in (LCLProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert isinstance(again, LCLProcessor)
        assert (again.image_size, again.fit) == (16, "squash")
        both = again(images=Image.new("RGB", (8, 8)), text="a red fox")
        assert torch.equal(both["input_ids"], processor.encode_texts(["a red fox"]))
        assert both["pixel_values"].shape == (1, 3, 16, 16)
