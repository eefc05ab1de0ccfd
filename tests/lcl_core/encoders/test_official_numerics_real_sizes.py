"""The published model sizes: names and shapes."""

from __future__ import annotations

import json

import pytest
import torch

from lcl_core.encoders.original_checkpoint import config_from_official
from lcl_core.model import LCLConfig, LCLModel
from tests.lcl_core.reference_cases import Case, official_config

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
