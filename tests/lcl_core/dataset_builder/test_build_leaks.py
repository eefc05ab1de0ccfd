"""Held-out images that repeat a training image are dropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lcl_core.dataset_builder.build import remove_cross_split_duplicates
from lcl_core.dataset_builder.documents import PairRow


def pair(folder: Path, name: str, levels: np.ndarray, split: str) -> PairRow:
    Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(folder / name)
    return PairRow(name, ("x",), {}, split, "made", "MIT")


def test_equal_and_nearly_equal_images_go(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).integers(20, 230, (3, 24, 24, 3)).astype(float)
    pairs = [
        pair(tmp_path, "train.png", drawn[0], "train"),
        pair(tmp_path, "copy.png", drawn[0], "test_vendor"),
        pair(tmp_path, "near.png", drawn[0] + 5, "val"),
        pair(tmp_path, "further.png", drawn[0] + 7, "val"),
        pair(tmp_path, "other.png", drawn[1], "test_vendor"),
        pair(tmp_path, "twin.png", drawn[1], "val"),
        pair(tmp_path, "again.png", drawn[0], "train"),
    ]
    kept = [each.image for each in remove_cross_split_duplicates(pairs, tmp_path)]
    assert kept == ["train.png", "further.png", "other.png", "twin.png", "again.png"]


def test_without_anything_held_out_nothing_is_read(tmp_path: Path) -> None:
    pairs = [PairRow("absent.webp", ("x",), {}, "train", "made", "MIT")]
    assert remove_cross_split_duplicates(pairs, tmp_path) == pairs
    assert remove_cross_split_duplicates([], tmp_path) == []
