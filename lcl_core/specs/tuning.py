"""How a task that learns is trained: its head, and in full transfer the encoder under it."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from lcl_core.specs.base import Fraction, Name, Spec
from lcl_core.specs.data import AugmentationSpec

Searched = Literal["epochs", "lr", "encoder_lr", "layer_decay", "weight_decay", "label_smoothing", "batch_size"]

Transfer = Literal["frozen", "full"]
_OF_THE_ENCODER = ("encoder_lr", "layer_decay")


class TuningSpec(Spec):
    """AdamW; linear warm-up, then a cosine to zero. Fields of the encoder are for full transfer."""

    transfer: tuple[Transfer, ...] | None = Field(
        None, min_length=1, description="of this task alone; none: as the evaluation says"
    )
    epochs: int = Field(20, ge=1, le=1000)
    full_epochs: int | None = Field(None, ge=1, le=1000, description="epochs of full transfer; none: epochs")
    steps: int | None = Field(None, ge=1, le=10_000_000, description="end after so many steps; none: epochs decide")
    lr: float = Field(1e-3, gt=0, le=1, description="of the head, at the end of the warm-up")
    encoder_lr: float = Field(1e-4, gt=0, le=1, description="full transfer: of the encoder's last layer")
    layer_decay: float = Field(
        0.75, gt=0, le=1, description="full transfer: each layer learns so many times as fast as the one above it"
    )
    weight_decay: float = Field(0.05, ge=0, le=10)
    warmup: Fraction = Field(0.05, description="share of the steps in which the rate rises")
    batch_size: int = Field(128, ge=1, le=65_536)
    max_grad_norm: float | None = Field(None, gt=0, description="clip the gradient's norm; none: no clipping")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    augmentation: AugmentationSpec = Field(
        AugmentationSpec(), description="full transfer: what happens to a training picture"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the hardware has it")
    search: dict[Searched, tuple[float, ...]] = Field(
        {}, description="values to try of some fields; the best on pictures held out of training are used"
    )
    validation_split: Name | None = Field(
        None, description="where search looks; none: a seeded tenth of the training split, learnt from after the choice"
    )

    @field_validator("search")
    @classmethod
    def _something_to_try(cls, search: dict[Searched, tuple[float, ...]]) -> dict[Searched, tuple[float, ...]]:
        if empty := [name for name, values in search.items() if not values]:
            raise ValueError(f"search.{empty[0]} is empty; name the values to try or leave it out")
        return search

    @model_validator(mode="after")
    def _values_are_allowed(self) -> Self:
        if self.steps is not None and "epochs" in self.search:
            raise ValueError("search.epochs changes nothing while steps is set; set steps to null or search lr")
        for name, values in self.search.items():
            for value in values:
                self.having(**{name: value})
        return self

    def under(self, transfer: Transfer) -> Self:
        """What holds in one protocol: full transfer may take other epochs, frozen has no encoder's rates to search."""
        if transfer == "frozen":
            kept = {name: values for name, values in self.search.items() if name not in _OF_THE_ENCODER}
            return self.model_copy(update={"search": kept})
        if self.full_epochs is None or "epochs" in self.search:
            return self
        return self.model_copy(update={"epochs": self.full_epochs})

    def having(self, **values: Any) -> Self:
        """The same with other values and nothing left to search. Raises: ValueError for one that is not allowed."""
        try:
            return type(self).model_validate({**self.model_dump(), **values, "search": {}})
        except ValidationError as error:
            first = error.errors()[0]
            if not first["loc"]:  # of the whole: fields that do not go together
                raise ValueError(first["msg"].removeprefix("Value error, ")) from None
            raise ValueError(f"search.{first['loc'][0]}: {first['msg']} (got {first['input']})") from None
