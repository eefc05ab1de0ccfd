"""An OpenCLIP encoder answers what OpenCLIP answers."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional as F

from lcl_core.common.errors import UserError
from lcl_core.encoders.openclip import OpenCLIPImageEncoder
from tests.lcl_core.encoders.external_samples import sample_images, save_openclip

open_clip = pytest.importorskip("open_clip")

TEXTS = ["a red bus", "", "an image of the end of a very long road that goes on and on and on and on and on"]


def library(folder):
    """The model, its evaluation transform and its tokenizer, as OpenCLIP's own guide makes them."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval(), transform, open_clip.get_tokenizer(f"local-dir:{folder}")


@pytest.mark.parametrize("kind", ["vit", "resnet", "coca", "timm"])
@torch.no_grad()
def test_both_sides_are_the_librarys(tmp_path, kind):
    folder = save_openclip(tmp_path, kind)
    model, transform, tokenizer = library(folder)
    tower = OpenCLIPImageEncoder.load(folder)
    pixels = tower.preprocess(sample_images())
    assert torch.equal(pixels, torch.stack([transform(image) for image in sample_images()]))
    pooled, patches = tower.encode(pixels)
    expected = F.normalize(model.encode_image(pixels), dim=-1)
    assert pooled is not None
    torch.testing.assert_close(pooled, expected, atol=1e-6, rtol=1e-5)
    texts = tower.encode_texts(TEXTS)
    assert texts is not None
    torch.testing.assert_close(texts, F.normalize(model.encode_text(tokenizer(TEXTS)), dim=-1), atol=1e-6, rtol=1e-5)
    assert (tower.embed_dim, tower.tokens, tower.width) == (24, patches.shape[1], patches.shape[2])
    assert tower.parameters <= sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("extra_ids", [0, 2])
@torch.no_grad()
def test_texts_of_siglip_are_cut_as_the_library_cuts_them(tmp_path, extra_ids):
    """With T5's tokenizer, as the SigLIP models of timm's organisation have it."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁a", "▁red", "▁b", "us", *(f"<extra_id_{i}>" for i in range(extra_ids))]
    siglip = {"hf_tokenizer_name": "timm/ViT-B-16-SigLIP", "tokenizer_kwargs": {"clean": "canonicalize"}}
    tower = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    folder = save_openclip(tmp_path, **siglip, **tower, vocab_size=len(pieces))
    specials = [
        {"id": number, "content": piece, "special": True, "normalized": False, "single_word": False, "lstrip": False,
         "rstrip": False}
        for number, piece in enumerate(pieces)
        if piece.startswith("<")
    ]  # fmt: skip
    words = {"type": "Unigram", "unk_id": 2, "vocab": [[piece, -1.0] for piece in pieces], "byte_fallback": False}
    spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "decoder", "post_processor"))
    file = {"version": "1.0", **empty, "added_tokens": specials, "pre_tokenizer": spaces, "model": words}
    (folder / "tokenizer.json").write_text(json.dumps(file))
    settings = {
        "tokenizer_class": "T5Tokenizer", "extra_ids": extra_ids, "additional_special_tokens": [], "legacy": False,
        "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>", "model_max_length": 64, "sp_model_kwargs": {},
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model, _, tokenizer = library(folder)
    ids = tokenizer(["A red, bus!"])
    assert ids[0, :5].tolist() == [4, 5, 6, 7, 1]
    texts = OpenCLIPImageEncoder.load(folder).encode_texts(TEXTS)
    assert texts is not None
    torch.testing.assert_close(texts, F.normalize(model.encode_text(tokenizer(TEXTS)), dim=-1), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_patch_tokens_are_those_before_the_projection(tmp_path):
    folder = save_openclip(tmp_path)
    model, _, _ = library(folder)
    tower = OpenCLIPImageEncoder.load(folder)
    pixels = tower.preprocess(sample_images())
    model.visual.output_tokens = True
    _, tokens = model.visual(pixels)
    torch.testing.assert_close(tower.patches(pixels), tokens, atol=1e-6, rtol=1e-5)
    assert (tower.tokens, tower.width) == (16, 32)


@pytest.mark.parametrize(
    "change",
    [
        {"text_cfg": {"hf_model_name": "roberta-base", "hf_tokenizer_name": "roberta-base"}},
        {"vision_cfg": {"timm_model_name": "hf-hub:somebody/network", "image_size": 32}},
    ],
)
def test_what_a_hub_defines_is_refused_without_asking_it(tmp_path, change):
    file = save_openclip(tmp_path) / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"] |= change
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"other places|hubs are not contacted") as caught:
        OpenCLIPImageEncoder.load(tmp_path)
    assert (caught.value.code, caught.value.field) == ("encoder_unreadable", "encoder")


def test_weights_that_do_not_fit_are_refused(tmp_path):
    file = save_openclip(tmp_path) / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["vision_cfg"]["layers"] = 3
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot be read") as caught:
        OpenCLIPImageEncoder.load(tmp_path)
    assert caught.value.code == "encoder_unreadable"
