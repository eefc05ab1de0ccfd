"""The sizes of a model that its costs follow from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from lcl_core.specs import PretrainSpec

CLIP_TOKENS = 49_411  # of CLIP's vocabulary, the three of images among them
SPECIALS = 5  # of a vocabulary that is learnt
MLP_RATIO = 4.0  # of every model that a spec describes


class Sizes(Protocol):
    """A model's configuration has them all."""

    @property
    def patch_size(self) -> int: ...

    @property
    def vision_width(self) -> int: ...

    @property
    def vision_layers(self) -> int: ...

    @property
    def text_width(self) -> int: ...

    @property
    def text_layers(self) -> int: ...

    @property
    def context_length(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def mlp_ratio(self) -> float: ...

    @property
    def num_image_tokens(self) -> int: ...


@dataclass(frozen=True)
class ModelSizes:
    """Sizes without a model. ``num_image_tokens``: patches of a whole image."""

    patch_size: int
    vision_width: int
    vision_layers: int
    text_width: int
    text_layers: int
    context_length: int
    vocab_size: int
    num_image_tokens: int
    mlp_ratio: float = MLP_RATIO


def sizes_of(spec: PretrainSpec) -> ModelSizes:
    """Of the model that a spec describes; a vocabulary that is learnt may come out smaller from few texts."""
    model, own = spec.model, spec.tokenizer.vocab_size + SPECIALS
    return ModelSizes(
        patch_size=model.patch_size,
        vision_width=model.vision_width,
        vision_layers=model.vision_layers,
        text_width=model.text_width,
        text_layers=model.text_layers,
        context_length=model.context_length,
        vocab_size=CLIP_TOKENS if spec.tokenizer.kind == "clip" else own,
        num_image_tokens=model.num_image_tokens,
    )
