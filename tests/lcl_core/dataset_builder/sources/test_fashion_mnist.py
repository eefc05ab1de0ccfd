"""Fashion-MNIST: IDX files become labelled images, its splits whole."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.dataset_builder.sources import select_sources
from lcl_core.dataset_builder.sources.fashion_mnist import CLASSES, SOURCE, read_idx

ROOT = "usr/share/datasets/fashion-mnist"


def idx(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return gzip.compress(header + values.astype(np.uint8).tobytes())


def test_images_get_the_names_of_their_classes_and_stay_as_they_are(kit: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    labels = np.array([9, 0, 3, 3, 8])
    files = {
        f"{ROOT}/train-images-idx3-ubyte.gz": idx(pixels[:3]),
        f"{ROOT}/train-labels-idx1-ubyte.gz": idx(labels[:3]),
        f"{ROOT}/t10k-images-idx3-ubyte.gz": idx(pixels[3:]),
        f"{ROOT}/t10k-labels-idx1-ubyte.gz": idx(labels[3:]),
    }
    built = SOURCE.build(kit.source_files(SOURCE, {"dataset-fashion-mnist": files}))
    assert [(pair.split, pair.labels["class"], pair.captions) for pair in built.pairs] == [
        ("train", "ankle boot", ()),
        ("train", "t-shirt or top", ()),
        ("train", "dress", ()),
        ("test", "dress", ()),
        ("test", "bag", ()),
    ]
    for pair, expected in zip(built.pairs, pixels, strict=True):
        with Image.open(kit.images / pair.image) as image:
            assert np.array_equal(np.asarray(image.convert("L")), expected)
    assert not built.documents


@pytest.mark.parametrize(
    "data",
    [b"", b"plain", gzip.compress(b""), gzip.compress(b"\0\0\x0d\x01\0\0\0\1x"), idx(np.arange(6))[:-4]],
    ids=["empty", "plain", "nothing packed", "another type", "cut off"],
)
def test_another_file_is_refused_with_its_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "labels.gz"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_idx(path)
    assert (caught.value.code, caught.value.file) == ("bad_idx_file", str(path))


def test_an_exam_is_built_only_where_it_is_named() -> None:
    assert SOURCE not in select_sources(None)
    assert select_sources(["fashion_mnist"]) == [SOURCE]
    assert len(CLASSES) == 10
