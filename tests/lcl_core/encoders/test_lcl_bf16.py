"""The twin with rounded weights computes what autocast makes of the whole ones, and keeps one copy of the rest."""

from __future__ import annotations

import torch

from lcl_core.encoders.lcl import precast_bf16
from lcl_core.model import LCLModel, LCLProcessor


def test_vectors_are_autocasts_to_the_bit(encoder):
    model, processor = LCLModel.from_pretrained(encoder), LCLProcessor.from_pretrained(encoder)
    twin = precast_bf16(model)
    side = model.config.image_size
    pixels = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    ids = processor.encode_texts(["ant", "a red bus on a hill"])
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(twin.get_image_features(pixels), model.get_image_features(pixels))
        assert torch.equal(twin.get_text_features(ids), model.get_text_features(ids))


def test_only_the_products_weights_are_kept_twice(encoder):
    model = LCLModel.from_pretrained(encoder)
    twin = precast_bf16(model)
    own = {name for name, weight in twin.named_parameters() if weight.dtype == torch.bfloat16}
    assert own
    assert all(".resblocks." in name and ".ln_" not in name for name in own)
    whole = dict(model.named_parameters())
    for name, weight in twin.named_parameters():
        assert (weight.data_ptr() == whole[name].data_ptr()) == (name not in own)
        assert whole[name].dtype == torch.float32
