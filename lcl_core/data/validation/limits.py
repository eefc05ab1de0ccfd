"""What a picture or a document must be to count as usable."""

from __future__ import annotations

from pydantic import Field

from lcl_core.data.images import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from lcl_core.specs.base import Spec


class Limits(Spec):
    """Bounds of one examination. Whatever lies outside is listed, never changed."""

    max_image_bytes: int = Field(MAX_IMAGE_BYTES, ge=1, description="larger files are too large, bytes")
    max_image_pixels: int = Field(MAX_IMAGE_PIXELS, ge=1, description="width x height above this is too large")
    min_image_side: int = Field(8, ge=1, le=4096, description="a shorter side below this is too small, pixels")
    similarity_threshold: float = Field(0.24, ge=-1, le=1, description="images matched below this are not usable")
    max_hashes: int = Field(16_000_000, ge=1024, description="hashes kept to find duplicates exactly, 8 bytes each")
    max_quarantined: int = Field(1_000_000, ge=0, description="lines of the quarantine list; further ones are counted")
