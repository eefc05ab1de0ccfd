"""The form for transformers: computed by the code that lies beside the weights, and still an encoder of ours."""

from __future__ import annotations

import copy
import io
import re
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from PIL import Image

from lcl_core.data.image_decoding import decode_image
from lcl_core.encoders.export import export
from lcl_core.model import LCLModel, LCLProcessor
from tests.lcl_core.encoders.export.conftest import encode_uncommon_images

TYPOGRAPHIC = ["The cat\u2019s nap", "cafe\u0301", "&amp;amp; <start_of_text> <pad>"]


@torch.inference_mode()
def test_it_loads_without_lcl_core(sample, tmp_path, anonymous_users):
    export("huggingface", sample.directory, tmp_path / "out")
    model: Any = transformers.AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True)
    processor: Any = transformers.AutoProcessor.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules.")
    assert type(processor).__module__.startswith("transformers_modules.")
    given = processor(images=sample.sample_images, text=sample.texts)
    torch.testing.assert_close(given["pixel_values"], sample.pixels, atol=1e-6, rtol=0)
    assert torch.equal(given["input_ids"], sample.ids)
    torch.testing.assert_close(model.get_image_features(sample.pixels), sample.images, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.get_text_features(sample.ids), sample.sentences, atol=1e-5, rtol=0)
    patches = sample.model.get_patch_features(sample.pixels)
    found = model(**given)
    torch.testing.assert_close(found.last_hidden_state, patches, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.image_embeds, sample.images, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.text_embeds, sample.sentences, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_weights_in_half_precision_take_what_the_processor_gives(sample, tmp_path, anonymous_users):
    copy.deepcopy(sample.model).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    LCLProcessor.from_pretrained(sample.directory).save_pretrained(tmp_path / "half")
    export("huggingface", tmp_path / "half", tmp_path / "out")
    model: Any = transformers.AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True)
    processor: Any = transformers.AutoProcessor.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert model.dtype == torch.bfloat16
    found = model(**processor(images=sample.sample_images, text=sample.texts))
    assert found.image_embeds.dtype == found.text_embeds.dtype == torch.float32
    assert float((found.image_embeds * sample.images).sum(1).min()) > 0.99
    assert float((found.text_embeds * sample.sentences).sum(1).min()) > 0.99


def test_for_us_it_is_an_encoder_as_before_and_its_code_does_not_run(sample, tmp_path):
    export("huggingface", sample.directory, tmp_path / "out")
    for code in (tmp_path / "out").glob("*.py"):
        code.write_text("raise SystemExit('remote code ran')")
    model = transformers.AutoModel.from_pretrained(tmp_path / "out")
    assert type(model) is LCLModel
    state = sample.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    processor = LCLProcessor.from_pretrained(tmp_path / "out")
    assert torch.equal(processor.encode_texts(sample.texts), sample.ids)


def test_a_tokenizer_alone_computes_the_same_ids(sample, tmp_path, anonymous_users):
    export("huggingface", sample.directory, tmp_path / "out")
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=True)
    texts = [*sample.texts, *TYPOGRAPHIC]
    expected = sample.processor.encode_texts(texts)
    assert torch.equal(tokenizer(texts, padding=True, return_tensors="pt")["input_ids"], expected)
    assert tokenizer(texts[0])["input_ids"] == sample.processor.encode_texts(texts[:1])[0].tolist()
    assert tokenizer.decode(tokenizer("A  red SQUARE")["input_ids"], skip_special_tokens=True) == "a red square"
    cut = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    assert cut["input_ids"].shape[1] == 77 < expected.shape[1]
    assert cut.keys() == {"input_ids"}, "and get_text_features reads nothing else"
    torch.testing.assert_close(sample.model.get_text_features(**cut), sample.model.get_text_features(expected))
    with pytest.raises(ValueError, match="text_pair"):
        tokenizer("a red square", "a blue circle")
    with pytest.raises(ValueError, match="trust_remote_code"):  # not another tokenizer, with other ids
        transformers.AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=False)


def test_the_card_has_what_a_hub_reads_and_its_recipe_computes_in_fp32(sample, tmp_path, anonymous_users):
    copy.deepcopy(sample.model).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    sample.processor.save_pretrained(tmp_path / "half")
    export("huggingface", tmp_path / "half", tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert card.data.license is None, "the owner's to name"
    (code,) = re.findall(r"^```python\n(.*?)^```$", card.text, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"DIR": tmp_path / "out", "image": sample.sample_images[0]}
    exec(code, names)
    assert names["model"].dtype == torch.float32
    extract: Any = transformers.pipeline("image-feature-extraction", str(tmp_path / "out"), trust_remote_code=True)
    assert torch.tensor(extract(sample.sample_images[0])).shape == (1, 24)


def test_an_image_processor_of_theirs_prepares_images_alike(sample, tmp_path):
    """Of images whose middle is a whole number of pixels: of the others it crops the neighbouring square."""
    export("huggingface", sample.directory, tmp_path / "out")
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil")
    squares = [image.resize((side, side)) for image, side in zip(sample.sample_images, (32, 50, 77, 200), strict=False)]
    found = theirs(images=squares, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, sample.processor.preprocess(squares), atol=1e-5, rtol=0)


def test_uncommon_images_are_read_as_the_service_reads_them(sample, tmp_path, anonymous_users):
    export("huggingface", sample.directory, tmp_path / "out")
    processor: Any = transformers.AutoProcessor.from_pretrained(tmp_path / "out", trust_remote_code=True)
    for name, data in encode_uncommon_images().items():
        found = processor(images=Image.open(io.BytesIO(data)))["pixel_values"]
        expected = sample.processor.preprocess([decode_image(data, name)])
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0, msg=name)
