"""Captioning by a language model that reads the encoder's patch tokens."""

from __future__ import annotations

from pydantic import Field, model_validator

from lcl_core.specs.base import Name
from lcl_core.specs.tasks.language import DecodingSpec, LanguageModelSpec
from lcl_core.specs.tuning import TuningSpec


class CaptioningSpec(TuningSpec):
    """An MLP carries patch tokens into the embedding space of a causal language model (paper, transfer heads (c))."""

    epochs: int = Field(1, ge=1, le=1000, description="passes over all captions of the training split")
    batch_size: int = Field(32, ge=1, le=65_536)
    weight_decay: float = Field(0.0, ge=0, le=10)
    warmup: float = Field(0.03, ge=0, le=1, description="share of the steps in which the rate rises")
    max_grad_norm: float | None = Field(1.0, gt=0, description="clip the gradient's norm; none: no clipping")
    language_model: LanguageModelSpec | None = Field(
        LanguageModelSpec(), description="behind the encoder; none: nothing is trained, zero_shot alone is asked"
    )
    train_split: Name = Field("train", description="split to learn from")
    train_dataset: Name | None = Field(
        None, description="registered dataset to learn from, as NoCaps from COCO; none: the one that is examined"
    )
    prompt: str = Field("", max_length=1000, description="what stands between the picture and the caption")
    question: str | None = Field(
        None, min_length=1, max_length=1000,
        description="asked about the picture in the language model's own layout of conversations; the caption is the "
        "answer. None: the caption simply follows",
    )  # fmt: skip
    caption: int | None = Field(
        None, ge=0, description="place of the caption to learn, 0 is a picture's first; none: all. References are all"
    )
    decoding: DecodingSpec = DecodingSpec()
    zero_shot: bool = Field(
        True, description="also let the encoder's own text tower write captions, without training, where it has one"
    )
    by_source: bool = Field(False, description="also score each source by itself, such as the domains of NoCaps")

    @model_validator(mode="after")
    def _one_layout(self) -> CaptioningSpec:
        if self.question is not None and self.prompt:
            raise ValueError("prompt precedes a caption that follows, question asks for one; leave out either")
        return self

    @model_validator(mode="after")
    def _somebody_speaks(self) -> CaptioningSpec:
        if self.language_model is None and not self.zero_shot:
            raise ValueError("with language_model none and zero_shot false nobody writes captions")
        return self

    def paths(self) -> dict[str, str]:
        """Paths on the server, by field."""
        return {} if self.language_model is None else self.language_model.paths()
