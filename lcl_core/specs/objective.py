"""The pre-training methods that the paper compares (Table 1), what they learn from, and the weights of their losses.

Their code is ``lcl_core/objectives``; what must be known before it is loaded is here, and a test keeps both in step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from lcl_core.specs.base import Spec
from lcl_core.specs.data import Reads

MethodName = Literal["lcl", "clip", "coca", "blip2", "beit3", "flamingo", "emu"]


@dataclass(frozen=True)
class Method:
    """What a spec must know of a pre-training method.

    Attributes:
        weights: of its losses, by name, where the spec gives none: those of its own paper.
        reads: what it can learn from. A pair is a document too; a document is no pair.
        official: whether the authors' numerics are defined for it.
    """

    weights: Mapping[str, float]
    reads: frozenset[Reads]
    official: bool = False


_PAIRS: frozenset[Reads] = frozenset({"pairs"})
_ALL: frozenset[Reads] = frozenset({"pairs", "documents"})

METHODS: dict[str, Method] = {
    "lcl": Method({"contrastive": 0.1, "generation": 1.0}, _ALL, official=True),
    "clip": Method({"contrastive": 1.0}, _PAIRS),
    "coca": Method({"contrastive": 1.0, "generation": 2.0}, _PAIRS),
    "blip2": Method({"contrastive": 1.0, "generation": 1.0, "matching": 1.0}, _PAIRS),
    "beit3": Method({"masked_text": 1.0, "masked_image": 1.0}, _ALL),
    "flamingo": Method({"generation": 1.0}, _ALL),
    "emu": Method({"generation": 1.0, "regression": 1.0}, _ALL),
}


class ObjectiveSpec(Spec):
    """The pre-training method, and the weights of its losses; those of losses that it does not have are not used."""

    name: MethodName = Field(
        "lcl",
        description="pre-training method. From interleaved documents or pairs: lcl (contrastive and generation), "
        "beit3 (masked words and patches), flamingo (generation alone), emu (generation and regression of image "
        "latents). From pairs alone: clip (contrastive), coca (and captioning), blip2 (and matching)",
    )
    contrastive_weight: float | None = Field(
        None, ge=0, le=1000, description="lambda of the contrastive loss; none: 0.1 in lcl, else 1"
    )
    generation_weight: float | None = Field(
        None, ge=0, le=1000, description="weight of next-token prediction or captioning; none: 2 in coca, else 1"
    )
    matching_weight: float | None = Field(
        None, ge=0, le=1000, description="blip2: weight of telling pairs from hard negatives; none: 1"
    )
    masked_text_weight: float | None = Field(
        None, ge=0, le=1000, description="beit3: weight of restoring masked words; none: 1"
    )
    masked_image_weight: float | None = Field(
        None, ge=0, le=1000, description="beit3: weight of restoring masked patches; none: 1"
    )
    regression_weight: float | None = Field(
        None, ge=0, le=1000, description="emu: weight of the regression of image latents; none: 1"
    )
    text_mask_ratio: float = Field(0.5, gt=0, lt=1, description="beit3: share of a document's words that are masked")
    image_mask_ratio: float = Field(0.4, gt=0, lt=1, description="beit3: share of an image's patches that are masked")

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each loss that the method has, by the loss's name."""
        given = {name: getattr(self, f"{name}_weight") for name in METHODS[self.name].weights}
        return {name: own if given[name] is None else given[name] for name, own in METHODS[self.name].weights.items()}
