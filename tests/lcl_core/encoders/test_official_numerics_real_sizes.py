"""The published model sizes: names, shapes, and the product against the reference at full width and depth."""

from __future__ import annotations

import json

import pytest
import torch

from lcl_core.encoders.original_checkpoint import config_from_official
from lcl_core.model import LCLConfig, LCLModel
from tests.lcl_core.reference_cases import Case, allowed, distance, official_config

MMC4 = Case(
    seed=21,
    official=official_config(224, 32, (768, 12, 64), (512, 12, 8), 8, context=2048, vocabulary=49411),
    layouts=(("sot", 20, "image", 12, "eot"), ("sot", 9, "image", "eot")),
)
LAION = Case(
    seed=22,
    official=official_config(224, 16, (768, 12, 64), (768, 12, 12), 12, context=280, vocabulary=49411),
    layouts=(("sot", 6, "image"), ("sot", 3, "image")),
)
CASES = {"ViT-B-32_mmc4": (MMC4, 178_642_945), "ViT-B-16_laion": (LAION, 249_924_097)}
LOOKED_AT = (
    "logit_scale",
    "visual.class_embedding",
    "visual.conv1.weight",
    "visual.transformer.resblocks.0.attn.in_proj_weight",
    "pool_project.query_token",
    "pool_project.pooler.cross_attn.v.weight",
    "text.token_embedding.weight",
    "text.positional_embedding",
    "text.transformer.resblocks.11.mlp.c_proj.weight",
    "text.text_projection",
    "lm_head.0.weight",
)


def on_meta(case):
    """Names and shapes without a gigabyte of weights."""
    with torch.device("meta"):
        return LCLModel(config_from_official(case.official))


@pytest.mark.parametrize("name", CASES)
def test_parameters_are_as_many_as_published(name):
    case, count = CASES[name]
    model = on_meta(case)
    assert model.num_parameters() == count
    assert len(model.state_dict()) == len(list(model.parameters())) == 318


@pytest.mark.parametrize("name", CASES)
def test_names_and_shapes_are_the_authors(golden, name):
    stats = json.loads((golden / f"init_stats_LCL_{name}.json").read_text())
    found = {key: list(value.shape) for key, value in on_meta(CASES[name][0]).state_dict().items()}
    assert found == {key: each["shape"] for key, each in stats.items()}


def test_the_default_configuration_is_the_published_one():
    ours, default = config_from_official(MMC4.official).to_dict(), LCLConfig().to_dict()
    assert ours == default


@pytest.mark.parametrize("name", CASES)
def test_forward_and_gradients(name, trio):
    three = trio(CASES[name][0])
    found = three.product(pixel_values=three.images, input_ids=three.ids)
    plain = three.plain(three.images, three.ids)
    with torch.no_grad():
        exact = three.exact(three.images.double(), three.ids)
    for field in ("loss", "contrastive_loss", "generation_loss", "image_features", "text_features"):
        true = getattr(exact, field)
        assert distance(found[field], true) <= allowed(true, getattr(plain, field)), field
    # against fp32: two backward passes of this size in fp64 take half a minute
    ours = torch.autograd.grad(found.loss, [three.product.get_parameter(key) for key in LOOKED_AT])
    wanted = torch.autograd.grad(plain.loss, [three.plain.get_parameter(key) for key in LOOKED_AT])
    for key, mine, reference in zip(LOOKED_AT, ours, wanted, strict=True):
        assert distance(mine, reference) <= 2e-5 * float(reference.abs().max()), key
