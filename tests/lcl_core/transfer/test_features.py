"""Frozen features: what they are of, and what makes the cache compute them again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lcl_core.data import open_corpus
from lcl_core.transfer.cache import FeatureCache
from lcl_core.transfer.encoder import ExamEncoder, load_encoder, untrained_twin
from lcl_core.transfer.features import ImageFeatures, image_features, text_features
from lcl_core.transfer.towers.lcl import LCLTower

NAMES = [f"{number}.png" for number in range(6)]


@pytest.fixture(scope="module")
def encoder(encoder_dir: Path) -> ExamEncoder:
    return load_encoder(encoder_dir)


def look(encoder: ExamEncoder, corpus: Path, cache: Path, *, patches: bool = True) -> ImageFeatures:
    return image_features(
        encoder, open_corpus(corpus), NAMES, FeatureCache(cache), patches=patches, advance=lambda _: None
    )


def test_they_are_the_model_s_own(encoder: ExamEncoder, squares: Path, tmp_path: Path) -> None:
    got = look(encoder, squares, tmp_path)
    corpus = open_corpus(squares)
    tower = encoder.tower
    assert isinstance(tower, LCLTower)
    pixels = tower.processor.preprocess([corpus.read_image(name) for name in NAMES])
    with torch.no_grad():
        pooled = tower.model.get_image_features(pixel_values=pixels)
        patches = tower.model.get_patch_features(pixel_values=pixels)
    np.testing.assert_allclose(got.pooled, pooled.numpy(), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(got.pooled, axis=1), 1, atol=1e-6)
    assert got.patches is not None
    np.testing.assert_allclose(got.patches, patches.numpy(), atol=2e-3)
    assert look(encoder, squares, tmp_path, patches=False).patches is None


def test_a_changed_picture_is_looked_at_again(encoder: ExamEncoder, squares: Path, tmp_path: Path) -> None:
    before = look(encoder, squares, tmp_path / "cache")
    changed = Path(shutil.copytree(squares, tmp_path / "changed"))
    Image.new("RGB", (16, 16), (250, 250, 0)).save(changed / "images" / NAMES[2])
    after = look(encoder, changed, tmp_path / "cache")
    assert [not np.allclose(a, b) for a, b in zip(before.pooled, after.pooled, strict=True)] == [
        number == 2 for number in range(6)
    ]


def test_another_encoder_or_transform_has_features_of_its_own(
    encoder: ExamEncoder, save_tiny_encoder: Callable[..., Path], squares: Path, tmp_path: Path
) -> None:
    first = look(encoder, squares, tmp_path / "cache")
    other = look(load_encoder(save_tiny_encoder(tmp_path / "other", seed=1)), squares, tmp_path / "cache")
    assert not np.allclose(first.pooled, other.pooled)
    tower = encoder.tower
    assert isinstance(tower, LCLTower)

    class Brighter(LCLTower):
        def preprocess(self, images: Sequence[Image.Image]) -> torch.Tensor:
            return super().preprocess(images) + 0.5

    brighter = ExamEncoder("trained", Brighter(tower.model, tower.processor, tower.weights_hash))
    assert not np.allclose(first.pooled, look(brighter, squares, tmp_path / "cache").pooled)


def test_a_copy_of_an_encoder_shares_its_features(encoder: ExamEncoder, encoder_dir: Path, tmp_path: Path) -> None:
    copy = load_encoder(shutil.copytree(encoder_dir, tmp_path / "copy"))
    assert copy.tower.identity == encoder.tower.identity


def test_texts_are_computed_once(encoder: ExamEncoder, tmp_path: Path) -> None:
    cache, done = FeatureCache(tmp_path), []
    first = text_features(encoder, ["a red square", "a blue square"], cache, advance=done.append)
    other = text_features(encoder, ["a blue square", "a red square"], cache, advance=done.append)
    again = text_features(encoder, ["a red square", "a blue square"], cache, advance=done.append)
    np.testing.assert_allclose(first, other[::-1], atol=1e-6)
    assert not np.allclose(first[0], first[1], atol=1e-3)
    np.testing.assert_array_equal(first, again)
    assert sum(done) == 6


def test_the_twin_has_fresh_weights_and_the_same_processor(
    save_tiny_encoder: Callable[..., Path], tmp_path: Path
) -> None:
    trained = load_encoder(save_tiny_encoder(tmp_path / "seed3", seed=3))
    twin, again = untrained_twin(trained).tower, untrained_twin(trained).tower
    assert twin.identity == again.identity
    assert twin.identity["weights"] != trained.weights_hash
    assert twin.identity["config"] == trained.tower.identity["config"]
    assert twin.transform == trained.tower.transform
    assert twin.parameters == trained.tower.parameters
    assert not twin.module.training
    assert not any(parameter.requires_grad for parameter in twin.module.parameters())
