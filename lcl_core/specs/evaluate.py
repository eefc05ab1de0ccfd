"""An examination of an encoder."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from lcl_core.specs.base import Name, Spec
from lcl_core.specs.presets import filled
from lcl_core.specs.tasks import (
    CaptioningSpec,
    ClassificationSpec,
    DialogueSpec,
    FewShotSpec,
    TunedRetrievalSpec,
    ZeroShotSpec,
)
from lcl_core.specs.tuning import Transfer, TuningSpec

TaskName = Literal[
    "retrieval",
    "classification",
    "zero_shot_classification",
    "few_shot",
    "tuned_retrieval",
    "captioning",
    "dialogue",
]


class EvaluateSpec(Spec):
    """Examine an encoder, every number beside chance and the same architecture untrained.

    ``preset`` fills in every field that is not given.
    """

    preset: Name | None = Field(None, description="named protocol; given fields win over it")
    encoder: Name = Field(..., description="id or name of a registered encoder")
    dataset: Name = Field("sample", description="name of a registered dataset with captioned or labelled images")
    splits: tuple[Name, ...] = Field(("test_vendor",), min_length=1, description="splits to be asked about")
    tasks: tuple[TaskName, ...] = Field(("retrieval", "classification"), min_length=1)
    transfer: tuple[Transfer, ...] = Field(
        ("frozen",), min_length=1, description="of tasks that learn: frozen trains the head alone, full the encoder too"
    )
    source: Name | None = Field(None, description="only images of this source, such as emoji")
    exclude: dict[Name, tuple[str, ...]] = Field(
        {}, description="label keys with values: no image with such a label is learnt from, searched or asked about"
    )
    classification: ClassificationSpec = ClassificationSpec()
    zero_shot_classification: ZeroShotSpec = ZeroShotSpec()
    few_shot: FewShotSpec = FewShotSpec()
    tuned_retrieval: TunedRetrievalSpec = TunedRetrievalSpec()
    captioning: CaptioningSpec = CaptioningSpec()
    dialogue: DialogueSpec = DialogueSpec()
    untrained_baseline: bool = Field(True, description="ask the same architecture with its initial weights, too")
    figures: bool = Field(True, description="draw confusion, learning curves and examples into the artifacts")
    seed: int = Field(0, ge=0, lt=2**31)
    timeout_seconds: float | None = Field(None, gt=0)

    def protocols(self, own: TuningSpec | DialogueSpec) -> tuple[Transfer, ...]:
        """How a task that learns is to be sat, each once: as its own spec says, else as this one does."""
        return tuple(dict.fromkeys(own.transfer or self.transfer))

    def further_datasets(self) -> dict[str, str]:
        """Registered datasets that tasks read beside ``dataset``, by field."""
        named = {"captioning": self.captioning.train_dataset, "dialogue": self.dialogue.train_dataset}
        return {f"{task}.train_dataset": name for task, name in named.items() if task in self.tasks and name}

    def further_encoders(self) -> dict[str, str]:
        """Registered encoders that tasks use beside ``encoder``, by field."""
        other = self.tuned_retrieval.text_encoder
        return {"tuned_retrieval.text_encoder": other} if other and "tuned_retrieval" in self.tasks else {}

    def paths(self) -> dict[str, str]:
        """Paths on the server that tasks read, by field."""
        asked = {"captioning": self.captioning.paths, "dialogue": self.dialogue.paths}
        return {
            f"{task}.{field}": path
            for task, paths in asked.items()
            if task in self.tasks
            for field, path in paths().items()
        }

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, given: Any) -> Any:
        return filled("evaluate", given)
