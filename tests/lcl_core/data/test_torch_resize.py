"""The fast way to the same square: vector instructions, and JPEGs decoded no larger than they are needed."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from lcl_core.data import SampleStream
from lcl_core.data.image_decoding import CropNeed, decode_image
from lcl_core.data.torch_resize import TorchCropper
from lcl_core.data.transforms import CLIP_STD, PILLOW_CROPPER, augment, crop_and_resize, normalise
from lcl_core.specs.data import AugmentationSpec, DataSpec

ONE_LEVEL = 1 / 255 / min(CLIP_STD)


def scene(width, height):
    """Something with edges and gradients."""
    levels = np.random.default_rng(0).integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    return Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [16, 64, 224])
@pytest.mark.parametrize(("width", "height"), [(500, 375), (97, 61), (40, 83), (5, 5), (1, 1), (1, 300), (3000, 2)])
def test_vectors_and_pillow_agree_to_a_level_and_seldom_two(width, height, size):
    spec = AugmentationSpec(crop_scale=(0.3, 1.0), flip_probability=0.5)
    for seed in range(3):
        fast = augment(scene(width, height), size, random.Random(seed), spec, cropper=TorchCropper())
        slow = augment(scene(width, height), size, random.Random(seed), spec)
        assert fast.shape == slow.shape == (3, size, size)
        assert np.abs(fast - slow).max() <= 2 * ONE_LEVEL * 1.01, "rounded once for each axis"
        assert np.abs(fast - slow).mean() < 0.05 * ONE_LEVEL


def test_stronger_augmentation_starts_from_the_same_square():
    spec = AugmentationSpec(colour_jitter=0.3, grey_probability=0.3, flip_probability=0.5)
    for seed in range(8):
        fast = augment(scene(200, 150), 64, random.Random(seed), spec, cropper=TorchCropper())
        slow = augment(scene(200, 150), 64, random.Random(seed), spec)
        assert np.abs(fast - slow).max() <= 8 * ONE_LEVEL


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_other_modes_go_through_pillow(mode):
    image = scene(60, 40).convert(mode)
    spec = AugmentationSpec()
    fast = augment(image, 32, random.Random(0), spec, cropper=TorchCropper())
    assert np.array_equal(fast, augment(image, 32, random.Random(0), spec, cropper=PILLOW_CROPPER))
    box = (0, 0, 30, 30)
    assert TorchCropper().crop(image, box, 16).tobytes() == PILLOW_CROPPER.crop(image, box, 16).tobytes()


@pytest.mark.parametrize(
    ("width", "height", "share", "size", "factor"),
    [
        (500, 375, 0.9, 224, 1),
        (640, 480, 0.9, 224, 2),
        (640, 480, 0.08, 224, 1),
        (4000, 3000, 0.9, 224, 8),
        (4000, 3000, 0.3, 224, 4),
        (8000, 300, 0.9, 224, 1),
        (100, 100, 1.0, 10, 8),
        (1, 1, 1.0, 224, 1),
    ],
)
def test_no_crop_has_fewer_pixels_than_the_square(width, height, share, size, factor):
    assert CropNeed(size, share).reduction(width, height) == factor
    image = decode_image(jpeg(scene(width, height)), "x", need=CropNeed(size, share))
    assert image.size == (-(-width // factor), -(-height // factor))


def test_a_smaller_decode_shows_the_same_image():
    data = jpeg(scene(1200, 900))
    small, whole = decode_image(data, "x", need=CropNeed(224, 0.9)), decode_image(data, "x")
    assert small.size == (600, 450)
    squares = [normalise(crop_and_resize(image, (0, 0, *image.size), 224)) for image in (small, whole)]
    assert np.abs(squares[0] - squares[1]).mean() < 2 * ONE_LEVEL


def test_only_jpegs_are_decoded_smaller_and_they_stay_upright():
    need = CropNeed(20, 1.0)
    buffer = io.BytesIO()
    scene(400, 300).save(buffer, "PNG")
    assert decode_image(buffer.getvalue(), "x", need=need).size == (400, 300)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode_image(jpeg(scene(400, 300), exif=exif), "x", need=need)
    assert turned.size == (38, 50)
    for mode in ("L", "CMYK"):
        image = decode_image(jpeg(scene(400, 300).convert(mode)), "x", need=need)
        assert (image.mode, image.size) == ("RGB", (50, 38))


def test_the_stream_takes_the_fast_way(kit, tokenizer):
    corpus = kit.corpus([kit.document(["x"], kit.image("photo.jpg", 0))])
    kit.write("images/photo.jpg", jpeg(scene(300, 200)))

    data = DataSpec(sources=({"dataset": "d"},))
    pixels = SampleStream(data, {"d": corpus}, tokenizer, 4, 32, 120, seed=0)[0].pixels
    exact = augment(corpus.read_image("photo.jpg"), 32, _after_the_coin(), AugmentationSpec())
    assert not np.array_equal(pixels[0], exact)
    assert np.abs(pixels[0] - exact).mean() < 6 * ONE_LEVEL


def _after_the_coin():
    """The generator of the first document, as it is when its first image is cropped."""
    from lcl_core.data.sampling.shuffle import mix64

    draw = random.Random(mix64(0, 0, 0, 0, 1))
    draw.random()
    return draw
