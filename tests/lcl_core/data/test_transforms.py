"""Images to normalised pixels."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from lcl_core.data import transforms
from lcl_core.data.transforms import (
    CLIP_MEAN,
    CLIP_STD,
    DIVIDED,
    MULTIPLIED,
    augment,
    crop_and_resize,
    eval_transform,
    normalise,
    normalise_levels,
    pad_to_square,
    random_box,
    squashed_box,
)
from lcl_core.specs.data import AugmentationSpec

ONE_LEVEL = 1 / 255 / min(CLIP_STD)


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def test_normalise_is_the_formula_in_single_precision():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    mean, std = np.array(CLIP_MEAN, np.float32), np.array(CLIP_STD, np.float32)
    expected = (levels.astype(np.float32) / np.float32(255) - mean) / std
    assert np.array_equal(normalise(Image.fromarray(levels)), expected.transpose(2, 0, 1))


def test_levels_are_normalised_by_the_table_of_each_image():
    """The second is what one product and one sum in single precision give, with a factor from double precision."""
    levels = np.stack([np.asarray(noise(8, 8)).transpose(2, 0, 1)] * 2)
    divided, multiplied = normalise_levels(levels, [DIVIDED, MULTIPLIED])
    assert np.array_equal(divided, normalise(noise(8, 8)))
    mean, std = (torch.tensor(each, dtype=torch.float64)[:, None, None] for each in (CLIP_MEAN, CLIP_STD))
    expected = torch.from_numpy(levels[1]) * (1 / (255 * std)).float() + (-mean / std).float()
    assert np.array_equal(multiplied, expected.numpy())
    assert not np.array_equal(divided, multiplied)
    assert np.abs(divided - multiplied).max() < 1e-6


@pytest.mark.parametrize(
    ("width", "height"), [(64, 64), (97, 61), (40, 83), (5, 5), (1, 1), (1, 300), (3000, 2), (65, 64)]
)
@pytest.mark.parametrize("size", [16, 64])
def test_any_shape_becomes_a_square(width, height, size):
    for pixels in (
        eval_transform(noise(width, height), size),
        augment(noise(width, height), size, random.Random(0), AugmentationSpec()),
    ):
        assert pixels.shape == (3, size, size)
        assert pixels.dtype == np.float32
        assert np.isfinite(pixels).all()


def test_evaluation_takes_the_centre():
    image = Image.new("RGB", (30, 10), (255, 0, 0))
    image.paste((0, 0, 255), (10, 0, 20, 10))
    blue = eval_transform(image, 10)
    assert np.allclose(blue[0, :, 3:7], normalise(Image.new("RGB", (4, 10), (0, 0, 255)))[0])


def test_a_hair_thin_image_gives_the_same_square_without_its_long_rest(monkeypatch):
    ramp = Image.linear_gradient("L").convert("RGB")  # noise would show the order in which Pillow rounds the axes
    images = [ramp.resize(size) for size in ((3000, 20), (20, 3000), (1500, 3))]
    short = [eval_transform(image, 32) for image in images]
    monkeypatch.setattr(transforms, "_LONGEST_STRIP", 100_000)
    for image, pixels in zip(images, short, strict=True):
        assert np.abs(pixels - eval_transform(image, 32)).max() <= ONE_LEVEL


def test_a_million_to_one_fits_the_memory():
    assert eval_transform(Image.new("RGB", (2_000_000, 1)), 64).shape == (3, 64, 64)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1"])
def test_other_modes_become_rgb(mode):
    image = noise(20, 20).convert("RGB" if mode == "P" else mode).convert(mode)
    assert eval_transform(image, 16).shape == (3, 16, 16)


def test_pixels_are_resized_in_the_images_own_mode():
    """Pillow never blends two-level images; made RGB first, they would turn grey."""
    assert len(np.unique(eval_transform(noise(37, 37).convert("1"), 16)[0])) == 2


@pytest.mark.parametrize(("width", "height"), [(30, 10), (10, 30), (3000, 3), (3, 3000), (20, 20), (1, 1)])
def test_squashed_and_padded_images_are_seen_whole(width, height):
    """A third of them is red, green and blue each, from one end of the longer side to the other."""
    horizontal = width >= height
    image = Image.fromarray(np.eye(3, dtype=np.uint8)[None if horizontal else slice(None)].reshape(3, 1, 3) * 255)
    image = (image.transpose(Image.Transpose.TRANSPOSE) if horizontal else image).resize((width, height), 0)
    whole = AugmentationSpec(crop_scale=(1.0, 1.0))
    for fit in ("squash", "pad"):
        for pixels in (eval_transform(image, 16, fit), augment(image, 16, random.Random(0), whole, fit)):
            assert pixels.shape == (3, 16, 16)
            line = pixels[:, 7, :] if horizontal else pixels[:, :, 7]
            assert width == 1 == height or line[:, [2, 8, 13]].argmax(0).tolist() == [0, 1, 2]


def test_the_ground_has_the_colour_of_the_border():
    image = Image.new("RGB", (30, 10), (10, 200, 30))
    image.paste((0, 0, 0), (10, 3, 20, 7))
    padded = pad_to_square(image, 60)
    assert [padded.getpixel(at) for at in ((0, 0), (59, 59), (30, 30))] == [(10, 200, 30), (10, 200, 30), (0, 0, 0)]


def test_squashed_crops_have_the_shape_of_the_image():
    draw = random.Random(0)
    boxes = [squashed_box(draw, 400, 100, (0.5, 0.7)) for _ in range(200)]
    shares = [(right - left) * (bottom - top) / 40_000 for left, top, right, bottom in boxes]
    assert 0.47 < min(shares) < max(shares) < 0.73
    assert 3 <= np.median([(right - left) / (bottom - top) for left, top, right, bottom in boxes]) <= 5
    assert min(left for left, *_ in boxes) >= 0
    assert max(right for *_, right, _ in boxes) <= 400


def test_random_boxes_keep_to_area_and_ratio():
    draw = random.Random(0)
    boxes = [random_box(draw, 200, 160, (0.5, 0.7)) for _ in range(300)]
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= 200
        assert 0 <= top < bottom <= 160
        width, height = right - left, bottom - top
        assert 0.48 < width * height / (200 * 160) < 0.72
        assert 0.73 < width / height < 1.36
    assert len(set(boxes)) > 290
    ratios = np.log([(right - left) / (bottom - top) for left, top, right, bottom in boxes])
    assert abs(ratios.mean()) < 0.05, "wide and tall are equally likely"


def test_a_image_that_fits_no_ratio_is_cut_in_the_middle():
    assert random_box(random.Random(0), 1000, 10, (0.9, 1.0)) == (493, 0, 506, 10)
    assert random_box(random.Random(0), 10, 1000, (0.9, 1.0)) == (0, 493, 10, 506)
    assert random_box(random.Random(0), 1, 1, (0.9, 1.0)) == (0, 0, 1, 1)


def test_the_same_draw_gives_the_same_pixels():
    def augmented(seed):
        return augment(noise(64, 64), 32, random.Random(seed), AugmentationSpec())

    first, again, other = (augmented(seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_crop_shows_nothing_from_outside():
    image = Image.new("RGB", (20, 20), (255, 255, 255))
    image.paste((0, 0, 0), (5, 5, 15, 15))
    assert not np.asarray(crop_and_resize(image, (5, 5, 15, 15), 32)).any()


def test_reference_pixels(golden):
    folder = golden / "data"
    facts = json.loads((folder / "transforms.json").read_text(encoding="utf-8"))
    crops = {(crop["name"], crop["size"]): crop for crop in facts["train_crops"]}
    # another Pillow may round some levels the other way
    exact = PIL.__version__ == facts["pillow"]
    for key, expected in load_file(folder / "transforms.safetensors").items():
        kind, name, size = key.split("/")
        image = Image.open(folder / "images" / f"src_{name}.png")
        if kind == "val":
            pixels = eval_transform(image, int(size))
        else:
            crop = crops[name, int(size)]
            left, top = crop["crop_left"], crop["crop_top"]
            box = (left, top, left + crop["crop_w"], top + crop["crop_h"])
            pixels = normalise(crop_and_resize(image, box, int(size)))
        difference = np.abs(pixels - expected)
        assert difference.max() <= (0 if exact else ONE_LEVEL * 1.01), key
        assert (difference > 0).mean() < 0.12, key


def test_no_torchvision():
    code = "import sys, lcl_core.data.transforms; assert not {'torch', 'torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=180, cwd=Path(__file__).parents[3])
