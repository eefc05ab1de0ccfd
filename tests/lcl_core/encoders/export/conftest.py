"""An encoder of ours in which nothing is at its initial value, and what it answers."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers.models.auto import configuration_auto, modeling_auto, processing_auto

from lcl_core.data.tokenizer import train_bpe
from lcl_core.model import LCLConfig, LCLModel, LCLProcessor
from lcl_core.train.factory import build_model
from tests.lcl_core.encoders.external_samples import perturb_weights, sample_images

LONG = " ".join(["a red square and a blue circle"] * 20)
TEXTS = ["a red square", "", "Green  triangles &amp; naïve\tcircles", LONG]


@dataclass(frozen=True)
class Sample:
    """An encoder's directory, itself, images and texts, and its vectors of them."""

    directory: Path
    model: LCLModel
    processor: LCLProcessor
    sample_images: list[Image.Image]
    texts: list[str]
    pixels: Tensor
    ids: Tensor
    images: Tensor
    sentences: Tensor


@pytest.fixture(
    scope="session",
    params=[
        {"activation": "gelu"},
        {"activation": "quick_gelu", "fit": "squash"},
        {"text_attention": "bidirectional", "fit": "pad"},
    ],
    ids=["gelu", "quick_gelu", "bidirectional"],
)
def sample(request, tmp_path_factory):
    return save_sample(tmp_path_factory.mktemp("encoder"), **request.param)


def encode_uncommon_images():
    """Files whose pixels are not plain upright RGB, by what is uncommon."""
    rng = np.random.default_rng(5)
    colours = Image.fromarray(rng.integers(0, 256, (50, 80, 4), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by 90 degrees
    palette = colours.convert("RGB").quantize(16)
    grey = Image.fromarray(rng.integers(0, 65536, (50, 80), dtype=np.uint16))
    made: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "alpha": (colours, "PNG", {}),
        "transparent palette": (palette, "PNG", {"transparency": 3}),
        "turned": (colours.convert("RGB"), "JPEG", {"exif": exif, "quality": 95}),
        "16 bits": (grey, "PNG", {}),
    }
    files = {}
    for name, (image, form, options) in made.items():
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        files[name] = buffer.getvalue()
    return files


def save_sample(directory, fit="crop", **changes):
    tokenizer = train_bpe(("a red square", "a blue circle", "green triangles on white"), vocab_size=280)
    sizes: dict[str, Any] = {
        "image_size": 32, "patch_size": 8, "vision_width": 48, "vision_layers": 2, "vision_head_width": 16,
        "text_width": 24, "text_layers": 2, "text_heads": 2, "pool_heads": 4, "context_length": 90,
        "vocab_size": tokenizer.vocab_size, "mlp_ratio": 2.5,
    }  # fmt: skip
    specials = ("sot", "eot", "img", "soi", "eoi")
    sizes |= {f"{name}_token_id": getattr(tokenizer.specials, name) for name in specials}
    config = LCLConfig(**{**sizes, **changes})
    model = build_model(config, 0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".ln_" in name or "norm1" in name or value.ndim == 1:  # gains and biases that no fold could ignore
                value.add_(0.5 * torch.randn(value.shape, generator=generator))
    perturb_weights(model)
    model.save_pretrained(directory)
    processor = LCLProcessor(tokenizer, config.image_size, fit)
    processor.save_pretrained(directory)
    pixels, ids = processor.preprocess(sample_images()), processor.encode_texts(TEXTS)
    with torch.inference_mode():
        images, sentences = model.get_image_features(pixels), model.get_text_features(ids)
    return Sample(directory, model, processor, sample_images(), TEXTS, pixels, ids, images, sentences)


@pytest.fixture
def anonymous_users(monkeypatch, tmp_path):
    """transformers as it is for those who have not got lcl_core, with a cache of its own."""
    monkeypatch.delitem(configuration_auto.CONFIG_MAPPING._extra_content, "lcl")
    for mapping in (modeling_auto.MODEL_MAPPING, processing_auto.PROCESSOR_MAPPING):
        monkeypatch.delitem(mapping._extra_content, LCLConfig)
        monkeypatch.setattr(mapping, "_extra_content", dict(mapping._extra_content))
    monkeypatch.setattr(configuration_auto.CONFIG_MAPPING, "_extra_content", {})
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    for module in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, module)  # of another test's cache
    monkeypatch.syspath_prepend(tmp_path / "modules")
