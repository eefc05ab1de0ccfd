"""A transformers encoder answers what transformers answers."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from torch.nn import functional as F

from lcl_core.common.errors import UserError
from lcl_core.encoders.huggingface import HuggingFaceImageEncoder, HuggingFaceTextEncoder
from tests.lcl_core.encoders.external_samples import WORDS, sample_images, save_huggingface, save_sentence_encoder

TEXTS = ["a red bus", "blue", "the end of the image of a red bus of a blue bus of the end of the red bus"]


def library(folder):
    """The model, and images as its own processor makes them."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    pixels = torch.cat([processor(images=image, return_tensors="pt")["pixel_values"] for image in sample_images()])
    return transformers.AutoModel.from_pretrained(folder).eval(), pixels


@pytest.mark.parametrize(
    ("kind", "before", "tokens", "width"),
    [("vit", 1, 16, 32), ("dinov2", 4, 16, 32), ("beit", 1, 16, 32), ("vit-without-pooler", 1, 16, 32)],
)
@torch.no_grad()
def test_a_vision_transformers_patches_are_its_last_states(tmp_path, kind, before, tokens, width):
    tower = HuggingFaceImageEncoder.load(save_huggingface(tmp_path, kind))
    model, pixels = library(tmp_path)
    assert torch.equal(tower.preprocess(sample_images()), pixels)
    pooled, patches = tower.encode(pixels)
    found = model(pixel_values=pixels)
    torch.testing.assert_close(patches, found.last_hidden_state[:, before:])
    # without a pooler in the weights, transformers would make one up
    expected = found.last_hidden_state[:, 0] if kind == "vit-without-pooler" else found.pooler_output
    assert pooled is not None
    torch.testing.assert_close(pooled, F.normalize(expected, dim=-1))
    assert (tower.image_size, tower.tokens, tower.width, tower.embed_dim) == (32, tokens, width, 32)
    assert tower.encode_texts(["a"]) is None


@torch.no_grad()
def test_a_cnns_last_map_is_read_row_by_row(tmp_path):
    tower = HuggingFaceImageEncoder.load(save_huggingface(tmp_path, "resnet"))
    model, pixels = library(tmp_path)
    pooled, patches = tower.encode(pixels)
    states = model(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(patches[:, 5], states[:, :, 1, 1])
    assert pooled is not None
    torch.testing.assert_close(pooled, F.normalize(states.mean((2, 3)), dim=-1))
    assert (tower.tokens, tower.width) == (16, 16)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.no_grad()
def test_both_sides_of_a_pair_are_the_librarys(tmp_path, kind):
    tower = HuggingFaceImageEncoder.load(save_huggingface(tmp_path, kind))
    model, pixels = library(tmp_path)
    pooled, patches = tower.encode(pixels)
    found = model.get_image_features(pixel_values=pixels)
    assert pooled is not None
    torch.testing.assert_close(pooled, F.normalize(found.pooler_output, dim=-1))
    before = 1 if kind == "clip" else 0
    torch.testing.assert_close(patches, found.last_hidden_state[:, before:])
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    words = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=12, return_tensors="pt")
    if kind == "siglip":  # its tokenizer gives no mask: padding is read
        words = {"input_ids": words["input_ids"]}
    texts = tower.encode_texts(TEXTS)
    assert texts is not None
    expected = F.normalize(model.get_text_features(**words).pooler_output, dim=-1)
    torch.testing.assert_close(texts, expected, atol=1e-6, rtol=1e-5)
    assert tower.embed_dim == texts.shape[1]


@torch.no_grad()
def test_a_text_encoder_alone_is_the_mean_over_its_words(tmp_path):
    side = HuggingFaceTextEncoder.load(save_huggingface(tmp_path, "bert"))
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    states = model(input_ids=torch.tensor([[1, 4, 5, 7, len(WORDS) - 1]])).last_hidden_state
    torch.testing.assert_close(side.features(TEXTS)[0], states[0].mean(0), atol=1e-6, rtol=1e-5)
    assert side.width == 32
    assert side.identity["weights"]


CLS, MAX, MEAN = ({f"pooling_mode_{name}": True} for name in ("cls_token", "max_tokens", "mean_tokens"))


@pytest.mark.parametrize(
    ("pooling", "modes"),
    [
        ({**CLS, "pooling_mode_mean_tokens": False, "include_prompt": True}, ["cls"]),
        (MAX, ["max"]),
        ({**MEAN, **CLS}, ["cls", "mean"]),
        ({"pooling_mode": "cls"}, ["cls"]),
        ({"pooling_mode": ["max", "cls"]}, ["max", "cls"]),
        ({}, ["mean"]),
    ],
)
@torch.no_grad()
def test_a_sentence_encoder_pools_as_its_directory_says(tmp_path, pooling, modes):
    side = HuggingFaceTextEncoder.load(save_sentence_encoder(tmp_path, pooling))
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    states = model(input_ids=torch.tensor([[1, 4, 5, 7, len(WORDS) - 1]])).last_hidden_state[0]
    made = {"cls": states[0], "max": states.amax(0), "mean": states.mean(0)}
    expected = torch.cat([made[mode] for mode in modes])
    torch.testing.assert_close(side.features(TEXTS)[0], expected, atol=1e-6, rtol=1e-5)
    assert side.width == 32 * len(modes)


@torch.no_grad()
def test_a_sentence_encoder_reads_as_much_of_a_text_as_it_learnt_on(tmp_path):
    side = HuggingFaceTextEncoder.load(save_sentence_encoder(tmp_path, MEAN, max_seq_length=4, do_lower_case=True))
    assert side.count_tokens(TEXTS) == [4, 3, 4]
    assert torch.equal(side.features(["A RED bus of"]), side.features(["a red end"]))


@torch.no_grad()
def test_the_vision_side_of_clip_alone_keeps_its_projection(tmp_path):
    tower = HuggingFaceImageEncoder.load(save_huggingface(tmp_path, "clip-projected"))
    model = transformers.CLIPVisionModelWithProjection.from_pretrained(tmp_path).eval()
    _, pixels = library(tmp_path)
    found, (pooled, patches) = model(pixel_values=pixels), tower.encode(pixels)
    assert pooled is not None
    torch.testing.assert_close(pooled, F.normalize(found.image_embeds, dim=-1))
    torch.testing.assert_close(patches, found.last_hidden_state[:, 1:])
    assert (tower.embed_dim, tower.random_init().embed_dim) == (20, 20)


def test_a_copy_of_a_text_side_learns_alone(tmp_path):
    side = HuggingFaceTextEncoder.load(save_huggingface(tmp_path, "bert"))
    twin = side.copy()
    twin.features(TEXTS).square().mean().backward()
    assert any(parameter.grad is not None for parameter in twin.module.parameters())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in side.module.parameters())


def test_the_untrained_twin_starts_from_other_weights(tmp_path):
    tower = HuggingFaceImageEncoder.load(save_huggingface(tmp_path, "clip"))
    twin = tower.random_init()
    assert twin.identity["weights"] != tower.identity["weights"]
    assert twin.identity == tower.random_init().identity
    first, second = twin.encode_texts(TEXTS), tower.random_init().encode_texts(TEXTS)
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)


def test_half_precision_on_disk_is_computed_in_single(tmp_path):
    save_huggingface(tmp_path, "vit")
    transformers.AutoModel.from_pretrained(tmp_path).half().save_pretrained(tmp_path)
    tower = HuggingFaceImageEncoder.load(tmp_path)
    assert {parameter.dtype for parameter in tower.module.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in tower.random_init().module.parameters()} == {torch.float32}


def test_code_beside_the_weights_is_never_run(tmp_path):
    file = save_huggingface(tmp_path, "vit") / "config.json"
    config = json.loads(file.read_text())
    config |= {"model_type": "somebodys", "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.M"}}
    file.write_text(json.dumps(config))
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError) as caught:
        HuggingFaceImageEncoder.load(tmp_path)
    assert caught.value.code == "encoder_unreadable"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("missing", ["preprocessor_config.json", "tokenizer.json", "model.safetensors"])
def test_what_is_missing_is_reported(tmp_path, missing):
    (save_huggingface(tmp_path, "clip") / missing).unlink()
    with pytest.raises(UserError) as caught:
        HuggingFaceImageEncoder.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_weights_that_lack_names_are_refused(tmp_path):
    file = save_huggingface(tmp_path, "vit") / "config.json"
    config = json.loads(file.read_text())
    config["num_hidden_layers"] = 3
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"lack .* of the names"):
        HuggingFaceImageEncoder.load(tmp_path)
