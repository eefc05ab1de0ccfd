"""The optional augmentation: off it is the plain transform, on it changes what it says."""

import random

import numpy as np
import pytest
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.data.transforms import augment, augment_levels, crop_and_resize, normalise, random_box
from lcl_core.specs.data import AugmentationSpec
from lcl_core.specs.parsing import parse_spec

WHOLE = (1.0, 1.0)


@pytest.fixture
def image():
    """32 x 32, red on the left and green on the right, brighter towards the bottom."""
    levels = np.zeros((32, 32, 3), np.uint8)
    levels[:, :16, 0] = levels[:, 16:, 1] = np.linspace(60, 200, 32, dtype=np.uint8)[:, None]
    return Image.fromarray(levels)


def made(image, seed=0, **fields):
    return augment(image, 32, random.Random(seed), AugmentationSpec.model_validate(fields))


def test_by_default_it_is_a_random_crop(image):
    plain = normalise(crop_and_resize(image, random_box(random.Random(7), *image.size, (0.9, 1.0)), 24))
    assert np.array_equal(augment(image, 24, random.Random(7), AugmentationSpec()), plain)


def test_a_flip_mirrors(image):
    straight = made(image, crop_scale=WHOLE)
    mirrored = made(image, crop_scale=WHOLE, flip_probability=1)
    assert np.array_equal(mirrored, straight[:, :, ::-1])
    assert not np.array_equal(mirrored, straight)


def test_grey_has_one_value_in_all_channels(image):
    levels = made(image, crop_scale=WHOLE, grey_probability=1)
    std, mean = np.array([0.26862954, 0.26130258, 0.27577711]), np.array([0.48145466, 0.4578275, 0.40821073])
    back = levels * std[:, None, None] + mean[:, None, None]
    np.testing.assert_allclose(back[0], back[1], atol=1e-5)
    np.testing.assert_allclose(back[0], back[2], atol=1e-5)


def test_jitter_keeps_the_shapes_and_changes_the_levels(image):
    seen = [made(image, seed, crop_scale=WHOLE, colour_jitter=0.4) for seed in range(8)]
    assert len({values.tobytes() for values in seen}) == 8
    for values in seen:
        assert values[0, :, :14].mean() > values[0, :, 18:].mean()
        assert np.isfinite(values).all()


def test_the_same_draw_gives_the_same_image(image):
    fields = {"flip_probability": 0.5, "colour_jitter": 0.4, "grey_probability": 0.2}
    assert np.array_equal(made(image, 3, **fields), made(image, 3, **fields))


@pytest.fixture
def drawing():
    """A dark red disc, with a white hole and a soft outline, on white."""
    down, across = np.mgrid[:48, :48] - 23.5
    radius = np.hypot(down, across)
    ink = np.clip(15.5 - radius, 0, 1) * np.clip(radius - 5, 0, 1)
    levels = 255 - ink[:, :, None] * (255 - np.array([120, 10, 10]))
    return Image.fromarray(levels.round().astype(np.uint8))


def levels_of(image, seed=0, **fields):
    """uint8 [3, 48, 48] of the whole image."""
    out = np.empty((3, 48, 48), np.uint8)
    spec = AugmentationSpec.model_validate({"crop_scale": WHOLE, **fields})
    augment_levels(image.resize((48, 48)), 48, random.Random(seed), spec, out)
    return out


def test_channels_are_the_same_in_another_order(image):
    plain = levels_of(image)
    orders = set()
    for seed in range(40):
        changed = levels_of(image, seed, channel_permutation=1)
        order = tuple(next(n for n in range(3) if np.array_equal(plain[n], channel)) for channel in changed)
        orders.add(order)
        assert sorted(order) == [0, 1, 2]
    assert len(orders) == 6


def test_inversion_turns_lightness_and_keeps_hue_and_chroma(drawing):
    plain, inverted = (levels_of(drawing, invert=p).astype(int) for p in (0, 1))
    assert np.array_equal(inverted.max(0) + inverted.min(0), 510 - plain.max(0) - plain.min(0))
    assert np.array_equal(inverted - inverted.min(0), plain - plain.min(0))
    assert inverted[:, 0, 0].tolist() == [0, 0, 0], "white becomes black"


def test_a_white_ground_gets_a_colour_and_the_drawing_does_not(drawing):
    plain, corners = levels_of(drawing), set()
    for seed in range(20):
        changed = levels_of(drawing, seed, background=1)
        ground = changed[:, 0, 0]
        corners.add(tuple(ground.tolist()))
        assert (ground >= 160).all() or (ground < 96).all()
        assert (changed[:, 0] == ground[:, None]).all()
        assert np.array_equal(changed[:, 22:26, 10:16], plain[:, 22:26, 10:16]), "the disc"
        assert np.array_equal(changed[:, 22:26, 22:26], plain[:, 22:26, 22:26]), "white inside of it is no ground"
        outline = changed[:, 24, 7].astype(int)
        low, high = np.minimum(ground, plain[:, 24, 12]), np.maximum(ground, plain[:, 24, 7])
        assert ((outline >= low.astype(int) - 1) & (outline <= high)).all()
    assert len(corners) == 20


def test_a_dark_ground_leaves_no_white_fringe(drawing):
    for seed in range(20):
        changed = levels_of(drawing, seed, background=1)
        if changed[:, 0, 0].max() < 96:
            row = changed[:, 24, :18].min(axis=0)
            assert row.max() < 160


def test_an_image_without_a_white_border_has_no_ground(image, drawing):
    assert np.array_equal(levels_of(image, background=1), levels_of(image))
    touching = drawing.crop((10, 10, 38, 38)).resize((48, 48))
    assert np.array_equal(levels_of(touching, background=1), levels_of(touching))


def test_what_is_off_draws_nothing(image):
    fields = {"crop_scale": (0.3, 1.0), "flip_probability": 0.5, "colour_jitter": 0.4, "grey_probability": 0.3}
    for seed in range(8):
        draws = [random.Random(seed) for _ in range(2)]
        plain = augment(image, 32, draws[0], AugmentationSpec.model_validate(fields))
        more = AugmentationSpec.model_validate({**fields, "invert": 0, "background": 0.0, "channel_permutation": 0})
        assert np.array_equal(augment(image, 32, draws[1], more), plain)
        assert draws[0].getstate() == draws[1].getstate()


def test_the_choices_do_not_depend_on_the_pixels(image, drawing):
    spec = AugmentationSpec(background=0.5, invert=0.5, channel_permutation=0.5)
    draws = [random.Random(3), random.Random(3)]
    for each, draw in zip((image, drawing.resize((32, 32))), draws, strict=True):
        augment(each, 32, draw, spec)
    assert draws[0].getstate() == draws[1].getstate()


@pytest.mark.parametrize("scale", [[0.9, 0.5], [0, 1]])
def test_an_impossible_crop_is_refused(scale):
    with pytest.raises(UserError, match="crop_scale"):
        parse_spec("pretrain", {"data": {"augmentation": {"crop_scale": scale}}})
