"""Frozen features: what they are of, and what makes the cache compute them again."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lcl_core.common.disk_cache import no_progress
from lcl_core.data import open_corpus
from lcl_core.encoders.lcl import LCLEncoder
from lcl_core.encoders.registry import load_image_encoder
from lcl_core.evaluation.features import (
    EvaluatedEncoder,
    FeatureCache,
    image_features,
    text_features,
)

NAMES = [f"{number}.png" for number in range(6)]


@pytest.fixture(scope="module")
def encoder(encoder_dir):
    return EvaluatedEncoder("trained", load_image_encoder(encoder_dir))


def look(encoder, corpus, cache, *, patches=True):
    return image_features(
        encoder, open_corpus(corpus), NAMES, FeatureCache(cache), patches=patches, heartbeat=no_progress
    )


def test_they_are_the_model_s_own(encoder, squares, tmp_path):
    got = look(encoder, squares, tmp_path)
    corpus = open_corpus(squares)
    tower = encoder.model
    assert isinstance(tower, LCLEncoder)
    pixels = tower.processor.preprocess([corpus.read_image(name) for name in NAMES])
    with torch.no_grad():
        pooled = tower.model.get_image_features(pixel_values=pixels)
        patches = tower.model.get_patch_features(pixel_values=pixels)
    np.testing.assert_allclose(got.pooled, pooled.numpy(), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(got.pooled, axis=1), 1, atol=1e-6)
    assert got.patches is not None
    np.testing.assert_allclose(got.patches, patches.numpy(), atol=2e-3)
    assert look(encoder, squares, tmp_path, patches=False).patches is None


def test_a_changed_image_is_looked_at_again(encoder, squares, tmp_path):
    before = look(encoder, squares, tmp_path / "cache")
    changed = Path(shutil.copytree(squares, tmp_path / "changed"))
    Image.new("RGB", (16, 16), (250, 250, 0)).save(changed / "images" / NAMES[2])
    after = look(encoder, changed, tmp_path / "cache")
    assert [not np.allclose(a, b) for a, b in zip(before.pooled, after.pooled, strict=True)] == [
        number == 2 for number in range(6)
    ]


def test_another_encoder_or_transform_has_features_of_its_own(encoder, save_tiny_encoder, squares, tmp_path):
    first = look(encoder, squares, tmp_path / "cache")
    stranger = EvaluatedEncoder("trained", load_image_encoder(save_tiny_encoder(tmp_path / "other", seed=1)))
    other = look(stranger, squares, tmp_path / "cache")
    assert not np.allclose(first.pooled, other.pooled)
    tower = encoder.model
    assert isinstance(tower, LCLEncoder)

    class Brighter(LCLEncoder):
        def preprocess(self, images):
            return super().preprocess(images) + 0.5

    brighter = EvaluatedEncoder("trained", Brighter(tower.model, tower.processor, tower.weights_hash))
    assert not np.allclose(first.pooled, look(brighter, squares, tmp_path / "cache").pooled)


def test_texts_are_computed_once(encoder, tmp_path):
    cache, done = FeatureCache(tmp_path), []
    text_encoder = encoder.model.identity, encoder.embed_texts
    first = text_features(*text_encoder, ["a red square", "a blue square"], cache, heartbeat=lambda: done.append(1))
    other = text_features(*text_encoder, ["a blue square", "a red square"], cache, heartbeat=lambda: done.append(1))
    again = text_features(*text_encoder, ["a red square", "a blue square"], cache, heartbeat=lambda: done.append(1))
    np.testing.assert_allclose(first, other[::-1], atol=1e-6)
    assert not np.allclose(first[0], first[1], atol=1e-3)
    np.testing.assert_array_equal(first, again)
    assert len(done) == 2


def test_the_twin_has_fresh_weights_and_the_same_processor(save_tiny_encoder, tmp_path):
    trained = EvaluatedEncoder("trained", load_image_encoder(save_tiny_encoder(tmp_path / "seed3", seed=3)))
    twin, again = trained.model.random_init(), trained.model.random_init()
    assert twin.identity == again.identity
    assert twin.identity["weights"] != trained.weights_hash
    assert twin.identity["config"] == trained.model.identity["config"]
    assert twin.transform == trained.model.transform
    assert twin.parameters == trained.model.parameters
    assert not twin.module.training
    assert not any(parameter.requires_grad for parameter in twin.module.parameters())


def maker(value, calls, size=4):
    def make(folder):
        calls.append(value)
        np.save(folder / "pooled.npy", np.full(size, value, np.float32))

    return make


def test_made_once_for_equal_facts_and_again_for_others(tmp_path):
    cache, calls = FeatureCache(tmp_path / "cache"), []
    first = cache.get_or_make({"encoder": "a", "split": "x"}, maker(1, calls))
    again = FeatureCache(tmp_path / "cache").get_or_make({"split": "x", "encoder": "a"}, maker(2, calls))
    other = cache.get_or_make({"encoder": "b", "split": "x"}, maker(3, calls))
    assert calls == [1, 3]
    assert first["pooled"].tolist() == again["pooled"].tolist() == [1] * 4
    assert other["pooled"].tolist() == [3] * 4
    with pytest.raises(ValueError, match="read-only"):
        again["pooled"][0] = 5


def test_a_mapped_array_outlives_its_entry(tmp_path):
    cache = FeatureCache(tmp_path, max_bytes=5000)
    evicted = cache.get_or_make({"n": 0}, maker(1, [], size=1000))
    cache.get_or_make({"n": 1}, maker(2, [], size=1000))
    assert len(list(tmp_path.glob("*/pooled.npy"))) == 1
    assert evicted["pooled"].sum() == 1000
