"""The form for transformers: computed by the code that lies beside the weights, and still an encoder of ours."""

from __future__ import annotations

import copy
import io
import json
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
    logits = sample.model.logit_scale.exp() * sample.images @ sample.sentences.T
    torch.testing.assert_close(found.logits_per_image, logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(found.logits_per_text, found.logits_per_image.T)
    assert model.config.hidden_size == model.config.projection_dim == found.image_embeds.shape[1]


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


@torch.inference_mode()
def test_pipelines_compute_what_the_encoder_computes(sample, tmp_path, anonymous_users):
    export("huggingface", sample.directory, tmp_path / "out")
    settings: dict[str, Any] = {"model": str(tmp_path / "out"), "trust_remote_code": True, "dtype": torch.float32}
    extract: Any = transformers.pipeline("image-feature-extraction", **settings)
    for image, expected in zip(sample.sample_images, sample.images, strict=True):
        torch.testing.assert_close(torch.tensor(extract(image)), expected[None], atol=1e-5, rtol=0)
    classify: Any = transformers.pipeline("zero-shot-image-classification", **settings)
    found = classify(sample.sample_images[0], candidate_labels=sample.texts[:3], hypothesis_template="{}")
    logits = sample.model.logit_scale.exp() * sample.images[0] @ sample.sentences[:3].T
    scores = {each["label"]: each["score"] for each in found}
    torch.testing.assert_close(
        torch.tensor([scores[text] for text in sample.texts[:3]]), logits.softmax(0), atol=1e-4, rtol=0
    )


def test_sentence_transformers_finds_the_methods_that_it_calls(sample, tmp_path, anonymous_users):
    """As ``Transformer`` of sentence-transformers 6 does, which the tests' environment has not."""
    export("huggingface", sample.directory, tmp_path / "out")
    (module,) = json.loads((tmp_path / "out" / "modules.json").read_text())
    assert (module["path"], module["type"]) == ("", "sentence_transformers.models.Transformer")
    settings = json.loads((tmp_path / "out" / "sentence_bert_config.json").read_text())
    assert settings["module_output_name"] == "sentence_embedding"
    model: Any = transformers.AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True)
    processor: Any = transformers.AutoProcessor.from_pretrained(tmp_path / "out", trust_remote_code=True)
    for kind, given in (("image", {"images": sample.sample_images}), ("text", {"text": sample.texts})):
        chosen = settings["modality_config"][kind]
        vectors = getattr(model, chosen["method"])(**processor(**given))
        assert chosen["method_output_name"] is None
        assert vectors.shape == (len(next(iter(given.values()))), model.config.projection_dim)


@torch.inference_mode()
def test_torch_exports_both_towers_with_free_sizes(sample, tmp_path, anonymous_users):
    export("huggingface", sample.directory, tmp_path / "out")
    model: Any = transformers.AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True)
    n, length = torch.export.Dim("n"), torch.export.Dim("length", max=77)
    for name, given, sizes, found in (
        ("pixel_values", sample.pixels, {0: n}, "image_embeds"),
        ("input_ids", sample.ids[:, :77], {0: n, 1: length}, "text_embeds"),
    ):
        graph = torch.export.export(model, (), {name: given[:2]}, dynamic_shapes={name: sizes}).module()
        expected = sample.images if name == "pixel_values" else sample.sentences
        torch.testing.assert_close(graph(**{name: given})[found], expected, atol=1e-5, rtol=0)


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
