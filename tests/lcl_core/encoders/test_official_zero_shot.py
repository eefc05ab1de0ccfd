"""Zero-shot classification from class names and templates, against the authors' tensors and by its properties."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from lcl_core.common.errors import UserError
from lcl_core.data import clip_tokenizer
from lcl_core.encoders.lcl import LCLEncoder
from lcl_core.encoders.original_checkpoint import config_from_official, load_official
from lcl_core.evaluation.tasks.zero_shot import class_scores, zero_shot_classifier
from lcl_core.model import LCLProcessor
from tests.lcl_core.reference_cases import encode_text, official_config, recipe_weights, reference_model
from tests.reference_model import ReferenceLCL, normalize

TEMPLATES = ["a photo of a {}.", "{}", "a rather bad drawing of the {}, on paper"]
CLASSES = ["cat", "dog", "fire engine", "!="]


def by_recipe(official, seed, folder):
    with torch.device("meta"):
        names = ReferenceLCL(config_from_official(official)).state_dict()
    weights = recipe_weights({name: tuple(value.shape) for name, value in names.items()}, seed)
    save_file(weights, folder / "weights.safetensors")
    return load_official(official, folder / "weights.safetensors")


def reader(model, tokenizer):
    """How the model reads texts."""
    return LCLEncoder(model, LCLProcessor(tokenizer, model.config.image_size), "").encode_texts


@pytest.fixture
def small(tmp_path):
    return by_recipe(official_config(16, 8, (32, 1, 16), (32, 2, 2), 2, 128, 49411), 31, tmp_path)


@pytest.fixture(scope="module")
def tokenizer():
    return clip_tokenizer()


def test_scores_are_the_authors(golden, tmp_path, tokenizer):
    folder = golden / "zeroshot"
    meta, stored = json.loads((folder / "meta.json").read_text()), load_file(folder / "zeroshot.safetensors")
    model = by_recipe(json.loads((folder / "config.json").read_text()), meta["seed"], tmp_path)
    classifier = zero_shot_classifier(reader(model, tokenizer), meta["classes"], meta["templates"])
    torch.testing.assert_close(classifier, stored["classifier"], atol=3e-6, rtol=0)
    features = model.get_image_features(pixel_values=stored["images"])
    torch.testing.assert_close(features, stored["image_features"], atol=3e-6, rtol=0)
    scores = class_scores(features.detach(), classifier)
    torch.testing.assert_close(scores, stored["logits"], atol=3e-4, rtol=0)
    assert scores.argmax(dim=1).tolist() == meta["top1"]


def test_a_column_is_the_mean_direction_of_its_prompts(small, tokenizer):
    """Against the reference: each prompt on its own, padded to the full context."""
    reference = reference_model(small.config, small.state_dict(), torch.float64)
    specials = tokenizer.specials
    found = zero_shot_classifier(reader(small, tokenizer), CLASSES, TEMPLATES)
    assert found.shape == (small.config.embed_dim, len(CLASSES))
    for column, name in zip(found.T, CLASSES, strict=True):
        features = []
        for template in TEMPLATES:
            ids = [specials.sot, *tokenizer.encode(template.format(name)), specials.eot]
            padded = F.pad(torch.tensor([ids]), (0, small.config.context_length - len(ids)))
            features.append(encode_text(reference, padded, context_length=77)[0])
        expected = F.normalize(torch.stack(features).mean(dim=0), dim=0)
        torch.testing.assert_close(column.double(), expected.detach(), atol=3e-6, rtol=0)


def test_a_image_takes_the_nearest_class(small):
    """Columns that are images' own directions: each image finds itself, at a hundred times the cosine."""
    pixels = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    own = normalize(small.pool_project.pool(small.visual(pixels))).detach()
    scores = class_scores(small.get_image_features(pixel_values=pixels), own.T)
    assert scores.argmax(dim=1).tolist() == list(range(5))
    torch.testing.assert_close(scores.diagonal(), torch.full((5,), 100.0), atol=1e-3, rtol=0)


def test_long_prompts_are_cut_to_the_models_context(tmp_path, tokenizer):
    short = by_recipe(official_config(16, 8, (32, 1, 16), (32, 1, 2), 2, 12, 49411), 32, tmp_path)
    one = zero_shot_classifier(reader(short, tokenizer), ["cat"], ["a photo of a {} " + "and a dog " * 30])
    other = zero_shot_classifier(reader(short, tokenizer), ["cat"], ["a photo of a {} " + "and a dog " * 3 + "fish"])
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("classes", "templates"), [([], ["{}"]), (["cat"], []), (["cat"], ["a photo"])])
def test_what_makes_no_classifier_is_said(small, tokenizer, classes, templates):
    with pytest.raises(UserError, match="template"):
        zero_shot_classifier(reader(small, tokenizer), classes, templates)
