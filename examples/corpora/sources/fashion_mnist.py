"""Fashion-MNIST (arXiv 1708.07747): 70,000 photographs of clothes, 28 x 28 grey levels, ten classes; an exam.

Images have no captions and nothing trains on them unless a spec names the corpus. The published splits stay whole.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from examples.corpora.images import ImageOptions
from examples.corpora.packages import apt
from examples.corpora.rows import PairRow, SourceRows
from examples.corpora.sources.base import CorpusSource, SourceFiles
from lcl_core.common.errors import UserError

CLASSES = (
    "t-shirt or top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
LICENCE = "MIT"
SPLITS = {"train": "train", "test": "t10k"}  # our name and the files'
_ROOT = "usr/share/datasets/fashion-mnist/"
_PACKAGE = apt(
    "dataset-fashion-mnist", "0.0~git20200523.55506a9-1",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0", _ROOT,
)  # fmt: skip
_UNSIGNED_BYTE = 8  # type code of an IDX file
_MAX_BYTES = 1 << 28  # of one unpacked file


def read_idx(path: Path) -> np.ndarray:
    """The array of unsigned bytes in a gzipped IDX file. Raises: UserError ``bad_idx_file``."""
    try:
        with gzip.open(path) as file:
            data = file.read(_MAX_BYTES + 1)
        rank = data[3]
        shape = np.frombuffer(data, ">u4", rank, offset=4).astype(np.int64)
        if data[:2] != b"\0\0" or data[2] != _UNSIGNED_BYTE or len(data) != 4 + 4 * rank + int(shape.prod()):
            raise ValueError("its header does not fit its length")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise UserError(f"it is no IDX file of bytes: {error}", code="bad_idx_file", file=path) from error


def build(files: SourceFiles) -> SourceRows:
    root = files.packages[_PACKAGE.name] / _ROOT
    return SourceRows([pair for split, stem in SPLITS.items() for pair in _pairs(files, root, split, stem)])


def _pairs(files: SourceFiles, root: Path, split: str, stem: str) -> Iterator[PairRow]:
    images, labels = (read_idx(root / f"{stem}-{part}.gz") for part in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        name = f"fashion_mnist/{split}/{number:05d}"
        image = files.images.put(Image.fromarray(pixels), name, ImageOptions(lossless=True))
        assert image is not None, "an array is an image"
        yield PairRow(image, (), {"class": CLASSES[label]}, split, "fashion_mnist", LICENCE)


SOURCE = CorpusSource(
    "fashion_mnist", "photographs of clothes in ten classes: an exam", (_PACKAGE,), (LICENCE,), build, exam=True
)
