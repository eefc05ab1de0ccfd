"""Images decoded and augmented a second on one core, against torchvision's ImageFolder pipeline on the same files."""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.data import SAMPLE_CORPUS, open_corpus
from lcl_core.data.image_decoding import CropNeed, decode_image
from lcl_core.data.torch_resize import TorchCropper
from lcl_core.data.transforms import CLIP_MEAN, CLIP_STD, PILLOW_CROPPER, Cropper, augment
from lcl_core.specs.data import AugmentationSpec

_QUALITY = 90


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, help="folder of class folders; without it, enlarged sample images")
    parser.add_argument("--count", type=int, default=200, help="pictures to make where no folder is given")
    parser.add_argument("--width", type=int, default=500, help="of the images made")
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--size", type=int, default=224, help="side of the square that comes out")
    parser.add_argument("--crop-scale", type=float, nargs=2, default=(0.9, 1.0), help="share of the area, both ways")
    parser.add_argument("--rounds", type=int, default=5, help="passes over all images, alternating")


def main(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        folder = options.images or make_images(Path(made), options.count, (options.width, options.height))
        report = measure(folder, options.size, tuple(options.crop_scale), options.rounds)
    print(json.dumps(report, indent=1))


def make_images(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Images of the sample corpus, enlarged, as JPEGs in one class folder."""
    corpus = open_corpus(SAMPLE_CORPUS)
    pairs = corpus.pairs()
    (folder / "all").mkdir(parents=True)
    for number in range(count):
        image = corpus.read_image(pairs[number * 7 % len(pairs)].image)
        enlarged = image.resize(size, Image.Resampling.BICUBIC)
        enlarged.save(folder / "all" / f"{number:05d}.jpg", quality=_QUALITY)
    return folder


def measure(folder: Path, size: int, crop_scale: tuple[float, float], rounds: int) -> dict[str, Any]:
    """The pipelines in turn, ``rounds`` times; rates are over the median round's processor time.

    Raises: UserError where torchvision or the images are missing.
    """
    theirs = torchvision_pipeline(folder, size, crop_scale)
    files = sorted(path for path in folder.glob("*/*") if path.is_file())
    passes: dict[str, Callable[[], object]] = {
        "lcl": lambda: run_ours(files, size, crop_scale, fast=True),
        "lcl_pillow": lambda: run_ours(files, size, crop_scale, fast=False),
        "torchvision": lambda: [theirs[number] for number in range(len(theirs))],
    }
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(rounds):
        for name, run in passes.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    rates = {name: len(files) / median(times) for name, times in seconds.items()}
    return {
        "images_per_s": {name: round(rate, 1) for name, rate in rates.items()},
        "ratio_to_torchvision": round(rates["lcl"] / rates["torchvision"], 3),
        "pictures": len(files),
        "mean_bytes": round(sum(file.stat().st_size for file in files) / len(files)),
        "size": size,
        "crop_scale": list(crop_scale),
        "rounds": rounds,
        "threads": torch.get_num_threads(),
    }


def run_ours(files: list[Path], size: int, crop_scale: tuple[float, float], fast: bool) -> None:
    """What the stream does to each image; ``fast``: as with ``DataSpec.fast_decode``."""
    spec, draw = AugmentationSpec(crop_scale=crop_scale), random.Random(0)  # noqa: S311 - crops, not secrets
    need = CropNeed(size, crop_scale[0]) if fast else None
    cropper: Cropper = TorchCropper() if fast else PILLOW_CROPPER
    for file in files:
        augment(decode_image(file.read_bytes(), file.name, need=need), size, draw, spec, cropper)


def torchvision_pipeline(folder: Path, size: int, crop_scale: tuple[float, float]) -> Any:
    """An ImageFolder with random crop, tensor and normalisation. Raises: UserError."""
    try:
        from torchvision import datasets, transforms
    except ImportError as error:
        message = "the comparison needs torchvision; `pip install torchvision` brings it"
        raise UserError(message, code="missing_extra") from error
    steps = [
        transforms.RandomResizedCrop(size, scale=crop_scale),
        transforms.ToTensor(),
        transforms.Normalize(CLIP_MEAN, CLIP_STD),
    ]
    try:
        return datasets.ImageFolder(str(folder), transforms.Compose(steps))
    except FileNotFoundError as error:
        raise UserError(f"no class folders with images ({error})", code="corpus_missing", file=folder) from error
