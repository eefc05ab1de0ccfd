"""What is read, and how documents are laid out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lcl_core.specs.base import Fraction, Name, Spec

View = Literal["interleaved", "pairs", "matched_pairs"]
Reads = Literal["documents", "pairs"]
VIEW_GIVES: dict[View, Reads] = {"interleaved": "documents", "pairs": "pairs", "matched_pairs": "pairs"}


class SourceSpec(Spec):
    """One corpus in the mixture."""

    dataset: Name = Field("sample", description="name of a registered dataset")
    view: View = Field(
        "interleaved", description="its documents, its captioned images, or each matched image with its sentence"
    )
    split: Name = Field("train", description="split of the captioned images")
    weight: float = Field(1.0, gt=0, le=1000, description="share of what weight_by says, relative to other sources")


class AugmentationSpec(Spec):
    """What happens to a training picture; the default is the authors' light random crop."""

    crop_scale: tuple[Fraction, Fraction] = Field((0.9, 1.0), description="share of the area that a crop keeps")
    flip_probability: Fraction = Field(0.0, description="chance of a mirror image")
    colour_jitter: Fraction = Field(0.0, description="brightness, contrast and saturation change by up to this share")
    grey_probability: Fraction = Field(0.0, description="chance of no colour at all")

    @model_validator(mode="after")
    def _scale_rises(self) -> AugmentationSpec:
        low, high = self.crop_scale
        if not 0 < low <= high:
            raise ValueError(f"crop_scale {low}, {high}: the first must be above 0 and at most the second")
        return self


class DataSpec(Spec):
    sources: tuple[SourceSpec, ...] = Field((SourceSpec(),), min_length=1, max_length=32)
    weight_by: Literal["documents", "images", "tokens"] = Field(
        "documents", description="what the sources' weights are shares of"
    )
    similarity_threshold: float = Field(0.24, ge=-1, le=1, description="images matched below this are left out")
    max_images: int = Field(6, ge=1, le=255, description="images a document keeps, first ones first")
    min_images: int = Field(1, ge=1, le=255)
    piece_images: int | None = Field(None, ge=1, le=255, description="cut documents into pieces of at most this many")
    image_first_probability: Fraction = Field(0.5, description="chance that an image stands before its sentence")
    augmentation: AugmentationSpec = AugmentationSpec()
    fast_decode: bool = Field(
        True, description="resize by vector instructions, and decode large JPEGs smaller; a level may round otherwise"
    )
    packing_lookahead: int = Field(
        16, ge=0, le=4096, description="documents that may wait for a batch that they fill; 0: none, in order"
    )
