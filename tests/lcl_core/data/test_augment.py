"""The optional augmentation: off it is the plain transform, on it changes what it says."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.data.transforms import augment, train_transform
from lcl_core.specs.data import AugmentationSpec
from lcl_core.specs.parsing import parse_spec

WHOLE = (1.0, 1.0)


@pytest.fixture
def image() -> Image.Image:
    """32 x 32, red on the left and green on the right, brighter towards the bottom."""
    levels = np.zeros((32, 32, 3), np.uint8)
    levels[:, :16, 0] = levels[:, 16:, 1] = np.linspace(60, 200, 32, dtype=np.uint8)[:, None]
    return Image.fromarray(levels)


def made(image: Image.Image, seed: int = 0, **fields: object) -> np.ndarray:
    return augment(image, 32, random.Random(seed), AugmentationSpec.model_validate(fields))


def test_by_default_it_is_the_plain_transform(image: Image.Image) -> None:
    plain = train_transform(image, 24, random.Random(7))
    assert np.array_equal(augment(image, 24, random.Random(7), AugmentationSpec()), plain)


def test_a_flip_mirrors(image: Image.Image) -> None:
    straight = made(image, crop_scale=WHOLE)
    mirrored = made(image, crop_scale=WHOLE, flip_probability=1)
    assert np.array_equal(mirrored, straight[:, :, ::-1])
    assert not np.array_equal(mirrored, straight)


def test_grey_has_one_value_in_all_channels(image: Image.Image) -> None:
    levels = made(image, crop_scale=WHOLE, grey_probability=1)
    std, mean = np.array([0.26862954, 0.26130258, 0.27577711]), np.array([0.48145466, 0.4578275, 0.40821073])
    back = levels * std[:, None, None] + mean[:, None, None]
    np.testing.assert_allclose(back[0], back[1], atol=1e-5)
    np.testing.assert_allclose(back[0], back[2], atol=1e-5)


def test_jitter_keeps_the_shapes_and_changes_the_levels(image: Image.Image) -> None:
    seen = [made(image, seed, crop_scale=WHOLE, colour_jitter=0.4) for seed in range(8)]
    assert len({values.tobytes() for values in seen}) == 8
    for values in seen:
        assert values[0, :, :14].mean() > values[0, :, 18:].mean()
        assert np.isfinite(values).all()


def test_the_same_draw_gives_the_same_image(image: Image.Image) -> None:
    fields = {"flip_probability": 0.5, "colour_jitter": 0.4, "grey_probability": 0.2}
    assert np.array_equal(made(image, 3, **fields), made(image, 3, **fields))


@pytest.mark.parametrize("scale", [[0.9, 0.5], [0, 1]])
def test_an_impossible_crop_is_refused(scale: list[float]) -> None:
    with pytest.raises(UserError, match="crop_scale"):
        parse_spec("pretrain", {"data": {"augmentation": {"crop_scale": scale}}})
