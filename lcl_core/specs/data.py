"""Specs of training data: sources, what happens to an image, how documents are laid out and read."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from lcl_core.specs.base import Fraction, Name, Spec

View = Literal["interleaved", "pairs", "matched_pairs"]
ItemKind = Literal["documents", "pairs"]
Fit = Literal["crop", "squash", "pad"]
# What a method gets from a view, and the records that the view is made of. Only pairs have splits of a spec.
VIEW_ITEMS: dict[View, ItemKind] = {"interleaved": "documents", "pairs": "pairs", "matched_pairs": "pairs"}
VIEW_RECORDS: dict[View, ItemKind] = {"interleaved": "documents", "pairs": "pairs", "matched_pairs": "documents"}
# of the normalisation of pixels by channel: CLIP's
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
NARROWEST_RATIO = 3 / 4  # of the sides of a random crop


class SourceSpec(Spec):
    """One corpus in the mixture."""

    dataset: Name = Field("sample", description="name of a registered dataset")
    view: View = Field(
        "interleaved", description="its documents, its captioned images, or each matched image with its sentence"
    )
    split: Name = Field("train", description="split of the captioned images")
    weight: float = Field(1.0, gt=0, le=1000, description="share of the unit of weight_by, relative to other sources")
    captions: Literal["as_written", "drawn", "keyword"] = Field(
        "as_written",
        description="texts of captioned images: as written, or (drawn) composed anew at every pass of the name, the "
        "keywords (one, or some in any order) and the texts as written, or (keyword) the name or one keyword alone, "
        "half of them after an attribute, or an attribute alone; images without keywords keep their texts",
    )
    image_first_probability: Fraction | None = Field(
        None,
        description="of this source, in place of data.image_first_probability: texts before an image train the "
        "contrastive loss, texts after it train captions",
    )


class AugmentationSpec(Spec):
    """What happens to a training image; the default is the authors' light random crop."""

    crop_scale: tuple[Fraction, Fraction] = Field((0.9, 1.0), description="share of the area that a crop keeps")
    flip_probability: Fraction = Field(0.0, description="probability of mirroring")
    colour_jitter: Fraction = Field(0.0, description="brightness, contrast and saturation change by up to this share")
    grey_probability: Fraction = Field(0.0, description="probability of greyscale")
    channel_permutation: Fraction = Field(0.0, description="probability that the colour channels are in random order")
    invert: Fraction = Field(0.0, description="probability of inverted lightness; hues stay as they are")
    background: Fraction = Field(
        0.0,
        description="probability that the white ground of a drawing, an image with a white border, gets a random light "
        "or dark colour",
    )

    @model_validator(mode="after")
    def _scale_rises(self) -> AugmentationSpec:
        low, high = self.crop_scale
        if not 0 < low <= high:
            raise ValueError(f"crop_scale {low}, {high}: the first must be above 0 and at most the second")
        return self


BLOCK_RECORDS = 32  # consecutive documents of a block in order blocks, which one request fetches


class DataSpec(Spec):
    """Corpora of the run, and how their documents become batches."""

    sources: tuple[SourceSpec, ...] = Field((SourceSpec(),), min_length=1, max_length=32)
    weight_by: Literal["documents", "images", "tokens"] = Field("documents", description="unit of the sources' weights")
    similarity_threshold: float = Field(0.24, ge=-1, le=1, description="images matched below this are left out")
    max_images: int = Field(6, ge=1, le=255, description="images a document keeps, first ones first")
    piece_images: int | None = Field(None, ge=1, le=255, description="cut documents into pieces of at most this many")
    image_first_probability: Fraction = Field(0.5, description="probability that an image comes before its sentence")
    fit: Fit = Field(
        "crop",
        description="how images of any shape become square, in training and wherever the encoder reads images; crop: "
        "their middle, in training a part of the shape 3:4 to 4:3; squash: all of them, width and height scaled "
        "separately; pad: all of them on a square in the colour of their border",
    )
    augmentation: AugmentationSpec = AugmentationSpec()
    workers: int | None = Field(
        None,
        ge=0,
        le=64,
        description="loader processes of each training process; none: chosen from the cores, 0: no process of its own",
    )
    order: Literal["full", "blocks"] = Field(
        "full",
        description="full: any document next; blocks: one of a few blocks of 32 consecutive documents, each fetched "
        "at once, for large corpora on object storage",
    )
    window_blocks: int = Field(
        384,
        ge=1,
        le=4096,
        description="order blocks: blocks that are mixed at a time; a multiple of the number of training processes, at "
        "least that times the loader processes of each",
    )
    resident: bool = Field(
        False,
        description="decode every image once, to the size that crops need, into a file in the cache that all processes "
        "of a machine map; crops are taken from there",
    )

    @model_validator(mode="after")
    def _window_holds_all_sources(self) -> DataSpec:
        if self.order == "blocks" and self.window_blocks < len(self.sources):
            raise ValueError(f"window_blocks {self.window_blocks}: {len(self.sources)} sources need as many at least")
        return self

    def resident_bytes(self, image_size: int, images: int) -> int:
        """Bytes of so many images that ``resident`` decodes: at most, unless some are hardly wide or high at all."""
        return images * math.ceil(3 * image_size**2 / (self.augmentation.crop_scale[0] * NARROWEST_RATIO))
