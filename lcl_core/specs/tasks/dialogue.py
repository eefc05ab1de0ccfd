"""Dialogue about pictures: a bridge that is aligned on captions, then taught to answer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lcl_core.specs.base import Name, Spec
from lcl_core.specs.tasks.language import DecodingSpec, LanguageModelSpec, Path
from lcl_core.specs.tuning import Transfer, TuningSpec

Benchmark = Literal["vqav2", "gqa", "vizwiz", "scienceqa-img", "pope", "mme", "mmbench", "seed-bench"]


class StageSpec(TuningSpec):
    """One of the two stages."""

    epochs: int = Field(1, ge=1, le=1000)
    batch_size: int = Field(32, ge=1, le=65_536)
    weight_decay: float = Field(0.0, ge=0, le=10)
    warmup: float = Field(0.03, ge=0, le=1, description="share of the steps in which the rate rises")
    max_grad_norm: float | None = Field(1.0, gt=0, description="clip the gradient's norm; none: no clipping")

    @model_validator(mode="after")
    def _part_of_a_whole(self) -> StageSpec:
        if self.search or self.transfer:
            raise ValueError("a stage is neither searched nor sat alone; leave out search and transfer")
        return self


class InstructionsSpec(Spec):
    """Conversations to learn from, in LLaVA's JSON."""

    path: Path = Field(..., description="the JSON file on the server, inside its data roots")
    images: Path = Field(..., description="folder that the file's images lie in, likewise")


class BenchmarkSpec(Spec):
    """A benchmark's official files."""

    name: Benchmark
    path: Path = Field(..., description="file or folder of its questions on the server, inside its data roots")
    images: Path | None = Field(None, description="folder of its pictures, likewise; none: inside the questions' files")


class DerivedSpec(Spec):
    """Conversations and questions made from a label of the dataset, for where there are no official ones."""

    label: Name = Field("subgroup", description="key of the labels that are asked about")
    per_picture: int = Field(2, ge=1, le=100, description="conversations made from a training picture")
    questions: int = Field(300, ge=1, le=1_000_000, description="tested pictures asked about, drawn by the seed")


class DialogueSpec(Spec):
    """Stage one aligns the bridge on captions, stage two teaches it to answer (paper, dialogue)."""

    transfer: tuple[Transfer, ...] | None = Field(
        None, min_length=1, description="of this task alone; none: as the evaluation says"
    )
    language_model: LanguageModelSpec = LanguageModelSpec()
    train_split: Name = Field("train", description="split whose captions stage one learns from")
    train_dataset: Name | None = Field(
        None, description="registered dataset whose captions stage one learns from; none: the one that is examined"
    )
    align: StageSpec = StageSpec()
    instruct: StageSpec = StageSpec()
    instructions: tuple[InstructionsSpec, ...] = Field(
        (), max_length=32, description="conversations for stage two; none: derived ones of the train split"
    )
    benchmarks: tuple[BenchmarkSpec, ...] = Field(
        (), max_length=32, description="what is asked; none: derived questions about the tested splits"
    )
    derived: DerivedSpec = DerivedSpec()
    max_questions: int | None = Field(
        None, ge=1, description="ask so many of a benchmark's pictures, drawn by the seed; none: all"
    )
    decoding: DecodingSpec = DecodingSpec(max_new_tokens=16)

    def paths(self) -> dict[str, str]:
        """Paths on the server, by field."""
        found = self.language_model.paths()
        sources: dict[str, tuple[InstructionsSpec | BenchmarkSpec, ...]] = {
            "instructions": self.instructions, "benchmarks": self.benchmarks,
        }  # fmt: skip
        for name, each in sources.items():
            for place, source in enumerate(each):
                found[f"{name}.{place}.path"] = source.path
                if source.images is not None:
                    found[f"{name}.{place}.images"] = source.images
        return found
