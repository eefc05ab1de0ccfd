"""What a page shows of a collection: thumbnails, and a map of its vectors by principal components."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image

from lcl_core.common.errors import UserError


def pca_2d(vectors: np.ndarray) -> np.ndarray:
    """The first two principal components, [n, E] → f32 [n, 2], on one scale within [-1, 1].

    One scale for both axes keeps the shape of the cloud. The largest weight of each axis is positive, since the signs
    of an SVD are arbitrary. Equal vectors lie at the origin.

    Raises:
        UserError: ``bad_vectors`` if they are not a matrix of finite numbers.
    """
    points = np.asarray(vectors, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] == 0 or not np.isfinite(points).all():
        raise UserError("a map needs rows of finite numbers, all of one length", code="bad_vectors")
    flat = np.zeros((len(points), 2))
    if len(points) > 1:
        centred = points - points.mean(axis=0)
        axes = _principal_axes(centred)
        flat[:, : len(axes)] = centred @ axes.T
    reach = np.abs(flat).max(initial=0.0)
    noise = np.abs(points).max(initial=0.0) * 1e-9  # rounding of equal vectors
    return (flat / reach if reach > noise else np.zeros_like(flat)).astype(np.float32)


def _principal_axes(centred: np.ndarray) -> np.ndarray:
    """Up to two unit axes [a, E] of the largest variance."""
    if len(centred) > centred.shape[1]:
        # Tall: the [E, E] product has the same right singular vectors and costs E/n of the memory.
        _, axes = np.linalg.eigh(centred.T @ centred)
        axes = axes.T[::-1][:2]
    else:
        axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    peak = np.abs(axes).argmax(axis=1)
    signs = np.sign(axes[np.arange(len(axes)), peak])
    return axes * np.where(signs == 0, 1.0, signs)[:, None]


MAX_COPIED_BYTES = 1_000_000
MAX_SIDE = 512  # pixels of an image that is encoded again
# formats that every browser draws; others are encoded again as WebP
MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
}


def thumbnail(raw: bytes, decoded: Image.Image, most: int = MAX_COPIED_BYTES) -> tuple[bytes, str]:
    """Bytes and media type to store: ``raw`` itself when it is small and a browser draws it, else a WebP.

    Args:
        raw: the file as the corpus holds it, already known to decode.
        decoded: the same image as RGB.
        most: bytes up to which it is small.
    """
    if len(raw) <= most:
        with Image.open(io.BytesIO(raw)) as header:  # reads the header only
            if header.format in MEDIA_TYPES:
                return raw, MEDIA_TYPES[header.format]
    size = _fit_size(*decoded.size)
    # as Image.thumbnail, without its copy of the whole image
    small = decoded.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0) if size != decoded.size else decoded
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=85)
    return buffer.getvalue(), "image/webp"


def _fit_size(width: int, height: int) -> tuple[int, int]:
    """Width and height scaled to MAX_SIDE, rounded to the nearer aspect ratio."""
    if max(width, height) <= MAX_SIDE:
        return width, height
    ratio = width / height
    if ratio >= 1:
        exact = MAX_SIDE / ratio
        sides = (math.floor(exact), math.ceil(exact))
        return MAX_SIDE, max(1, min(sides, key=lambda side: abs(ratio - MAX_SIDE / side) if side else 0))
    exact = MAX_SIDE * ratio
    return max(1, min((math.floor(exact), math.ceil(exact)), key=lambda side: abs(ratio - side / MAX_SIDE))), MAX_SIDE
