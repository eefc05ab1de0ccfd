"""Spec of a pre-training job: data, model, objective, optimiser, engine.

``METHODS`` holds what a spec must know of an objective before its code (``lcl_core/objectives``) is loaded; a test
keeps both in step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from lcl_core.common.errors import UserError
from lcl_core.common.paths import is_url
from lcl_core.specs.base import (
    RUN_ID_PATTERN,
    EncoderReference,
    JobSpec,
    Name,
    Precision,
    References,
    Spec,
    apply_preset,
)
from lcl_core.specs.data import VIEW_ITEMS, VIEW_RECORDS, DataSpec, ItemKind, View
from lcl_core.specs.vision import DEFAULT_TOWER, TOWER_PATTERN, VISION_TOWERS, TowerSizes, tower_kind

ModelPart = Literal["vision", "pooler", "text", "head"]  # towers, pooler and language-model head


class ModelSpec(Spec):
    """Sizes of the two towers and the pooler (Method section; the paper's ViT-B/32 is 768 x 12 with 512 x 12)."""

    image_size: int = Field(64, ge=16, le=1024, description="side of the square input, pixels")
    patch_size: int = Field(16, ge=2, le=128, description="side of a patch, pixels; divides image_size")
    vision: str = Field(
        DEFAULT_TOWER,
        pattern=TOWER_PATTERN,
        description="vision tower: vit, resnet, or timm: "
        "with a timm model's name, such as timm:resnet18, which has its own number of layers",
    )
    vision_width: int = Field(192, ge=16, le=4096, description="channels of the vision tower")
    vision_layers: int = Field(6, ge=1, le=64, description="blocks of the vision tower")
    vision_head_width: int = Field(
        64, ge=8, le=256, description="channels of one attention head of the vision tower; divides vision_width"
    )
    text_width: int = Field(
        192, ge=16, le=4096, description="channels of the text tower, and numbers of a vector of image or text"
    )
    text_layers: int = Field(4, ge=1, le=64, description="blocks of the text tower")
    text_heads: int = Field(3, ge=1, le=64, description="attention heads of the text tower; divides text_width")
    context_length: int = Field(256, ge=8, le=65536, description="longest document, tokens (position table)")
    activation: Literal["gelu", "quick_gelu"] = Field(
        "gelu",
        description="of the MLPs of both towers; quick_gelu is that of OpenAI's CLIP, for a start from its weights",
    )
    init: EncoderReference | None = Field(
        None,
        description="id or name of a registered encoder whose weights the run starts from, as far as they fit; none: "
        "random weights",
    )
    freeze: tuple[ModelPart, ...] = Field(
        (), max_length=3, description="parts whose weights stay as they are; the temperature is always trained"
    )

    @model_validator(mode="after")
    def _sizes_divide(self) -> ModelSpec:
        for large, small in (
            ("image_size", "patch_size"),
            ("vision_width", "vision_head_width"),
            ("text_width", "text_heads"),
        ):
            if small == "vision_head_width" and not tower_kind(self.vision).patchwise:
                continue
            if getattr(self, large) % getattr(self, small):
                raise ValueError(f"{large} {getattr(self, large)} must be a multiple of {small} {getattr(self, small)}")
        if self.num_image_tokens + 3 > self.context_length:
            raise ValueError(
                f"context_length {self.context_length} cannot hold one image of {self.num_image_tokens} tokens; "
                "raise it or patch_size"
            )
        return self

    @property
    def num_image_tokens(self) -> int:
        """Patch tokens an image takes in the document."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tower_sizes(self) -> TowerSizes:
        return TowerSizes(self.patch_size, self.vision_width, self.vision_layers, self.num_image_tokens)


class TokenizerSpec(Spec):
    """The vocabulary of the text tower."""

    kind: Literal["bpe", "clip"] = Field("bpe", description="trained on the corpus, or CLIP's 49,408 tokens")
    vocab_size: int = Field(4096, ge=300, le=200_000, description="for bpe: tokens without the five specials")
    path: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="for bpe: tokenizer.json of a run, or a folder with one, on the server, inside its data roots, "
        "instead of merges learnt from the corpus; so several runs have one vocabulary, whatever vocab_size says",
    )

    @field_validator("path")
    @classmethod
    def _is_a_file_of_bpe(cls, path: str | None, info: ValidationInfo) -> str | None:
        if path is not None and is_url(path):
            raise ValueError("a tokenizer is a file on the server, not a URL; copy it below a data root")
        if path is not None and info.data.get("kind") == "clip":
            raise ValueError("kind clip has a vocabulary of its own; leave path out, or choose kind bpe")
        return path


TEXT_CONTEXT_LENGTH = 77  # tokens of a text encoded alone, as the authors cut it for their zero-shot tests
TEXT_MASK_RATIO, IMAGE_MASK_RATIO = 0.5, 0.4  # of beit3: shares of a document's words and an image's patches
MethodName = Literal["lcl", "clip", "coca", "blip2", "beit3", "flamingo", "emu"]


@dataclass(frozen=True)
class Method:
    """The facts of a pre-training method that validation needs.

    Attributes:
        weights: default weights of its losses, by name: those of its paper.
        reads: kinds of items that it trains on. A pair is a document too; a document is no pair.
        official: whether the authors' numerics are defined for it.
        text_attention: of the text tower, in training and afterwards.
        masks_patches: whether it masks patches in front of the vision tower.
    """

    weights: Mapping[str, float]
    reads: frozenset[ItemKind]
    official: bool = False
    text_attention: Literal["causal", "bidirectional"] = "causal"
    masks_patches: bool = False


_PAIRS: frozenset[ItemKind] = frozenset({"pairs"})
_ALL: frozenset[ItemKind] = frozenset({"pairs", "documents"})

METHODS: dict[str, Method] = {
    "lcl": Method({"contrastive": 0.1, "generation": 1.0}, _ALL, official=True),
    "clip": Method({"contrastive": 1.0}, _PAIRS),
    "coca": Method({"contrastive": 1.0, "generation": 2.0}, _PAIRS),
    "blip2": Method({"contrastive": 1.0, "generation": 1.0, "matching": 1.0}, _PAIRS),
    "beit3": Method(
        {"masked_text": 1.0, "masked_image": 1.0}, _ALL, text_attention="bidirectional", masks_patches=True
    ),
    "flamingo": Method({"generation": 1.0}, _ALL),
    "emu": Method({"generation": 1.0, "regression": 1.0}, _ALL),
}


class ObjectiveSpec(Spec):
    """The pre-training method, and the weights of its losses; a loss that it does not have has none."""

    name: MethodName = Field(
        "lcl",
        description="pre-training method. From interleaved documents or pairs: lcl (contrastive and generation), "
        "beit3 (masked words, and pixels of masked patches), flamingo (generation alone), emu (generation and "
        "regression of image latents). From pairs alone: clip (contrastive), coca (and captioning), blip2 (and "
        "matching)",
    )
    contrastive_weight: float | None = Field(
        None, ge=0, le=1000, description="lambda of the contrastive loss; none: 0.1 in lcl, else 1"
    )
    generation_weight: float | None = Field(
        None, ge=0, le=1000, description="weight of next-token prediction or captioning; none: 2 in coca, else 1"
    )
    matching_weight: float | None = Field(
        None, ge=0, le=1000, description="blip2: weight of image-text matching; none: 1"
    )
    contrastive_loss: Literal["infonce", "sigmoid"] = Field(
        "infonce",
        description="softmax over the batch, or (sigmoid) each image and text a two-class problem of its own",
    )
    positives: Literal["own", "same_context", "same_concept", "shared_keywords"] = Field(
        "own",
        description="contrastive loss: an image's positive is its own context, or every equal one in the batch, or "
        "(same_concept) also every context of an image of the same concept, or (shared_keywords) besides those every "
        "caption that consists of names, keywords and attributes of the image",
    )
    regression_target: Literal["live", "detached", "ema"] = Field(
        "live",
        description="emu: latents to predict: with gradient, without, or those of a moving average of the encoder",
    )
    masking: Literal["joint", "alternate"] = Field(
        "joint",
        description="beit3: mask words and patches of every document, or in each document one of them",
    )

    @property
    def reads_concepts(self) -> bool:
        """Whether the losses depend on which images are of one concept."""
        return self.positives in ("same_concept", "shared_keywords") or self.name == "blip2"

    @property
    def averages_encoder(self) -> bool:
        """Whether targets come from a moving average of the encoder."""
        return self.name == "emu" and self.regression_target == "ema"

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each loss that the method has, by the loss's name."""
        given = {
            "contrastive": self.contrastive_weight,
            "generation": self.generation_weight,
            "matching": self.matching_weight,
        }
        own = METHODS[self.name].weights
        return {**own, **{name: value for name, value in given.items() if name in own and value is not None}}


class EngineSpec(Spec):
    """Processes, memory and speed."""

    nodes: int = Field(
        1,
        ge=1,
        le=64,
        description="number of machines: the run starts when as many workers have joined",
    )
    processes: int = Field(1, ge=1, le=64, description="training processes on each machine, one a GPU")
    strategy: Literal["ddp", "fsdp2"] = Field(
        "ddp", description="several processes: each has all weights, or (fsdp2) a part of every block"
    )
    accumulate: int = Field(
        1, ge=1, le=1024, description="batches of a process in one step; the contrastive loss is over all of them"
    )
    activation_checkpointing: bool = Field(
        False, description="activation checkpointing: compute activations twice to store fewer"
    )
    compile: bool = Field(False, description="compile every transformer block; pays on GPUs and in long runs")


class BatchSpec(Spec):
    """A step's batch: documents packed without padding until either budget is full."""

    tokens: int = Field(4096, ge=64, le=4_194_304, description="of text and images together, of one process")
    images: int = Field(64, ge=1, le=65_536, description="of one process; those of all are each other's negatives")


Decay = Annotated[float, Field(ge=0, lt=1)]  # of a moving average; at 1 it would never move


class OptimizerSpec(Spec):
    """AdamW with the authors' decay groups; linear warm-up, then the schedule."""

    lr: float = Field(5e-4, gt=0, le=1, description="learning rate at the end of the warm-up")
    weight_decay: float = Field(0.2, ge=0, le=10, description="of tensors with two dimensions or more")
    betas: tuple[Decay, Decay] = Field((0.9, 0.98), description="decay of AdamW's two moving averages")
    eps: float = Field(1e-6, gt=0, le=1, description="added to the denominator of AdamW's step")
    warmup_steps: int = Field(100, ge=0, description="first steps, in which the rate rises in a line")
    schedule: Literal["cosine", "constant", "constant_with_decay"] = Field(
        "cosine", description="after the warm-up; cosine ends at zero, constant_with_decay goes there in decay_steps"
    )
    decay_steps: int = Field(0, ge=0, description="last steps, in which constant_with_decay decreases linearly to zero")
    max_grad_norm: float | None = Field(None, gt=0, description="clip the gradient's norm; none: no clipping")

    @model_validator(mode="after")
    def _decay_belongs_to_its_schedule(self) -> OptimizerSpec:
        if (self.schedule == "constant_with_decay") != (self.decay_steps > 0):
            raise ValueError("decay_steps must be above 0 with schedule constant_with_decay, and 0 with any other")
        return self


HELD_OUT = "held_out."  # begins the names of the numbers of held-out data in a metric line


class MonitorSpec(Spec):
    """Held-out data on which a run is measured while it trains."""

    dataset: Name = Field(description="name of a registered dataset")
    view: View = Field("pairs", description="as in data.sources; labels and captions need pairs")
    split: Name = Field("val", description="of the captioned images; never one that reports a final number")
    every: int = Field(500, ge=1, description="steps between measurements; the last step is measured too")
    images: int = Field(1000, ge=2, le=20_000, description="images at most: a fixed sample, the same in every run")
    label: Name | None = Field(
        None, description="kind of label for nearest neighbours; none: concept, or else class, as far as there are any"
    )
    choose: Literal["held_out.loss", "held_out.retrieval_r1", "held_out.retrieval_r5", "held_out.knn_accuracy"] = Field(
        "held_out.loss", description="number that decides which weights are the best: the lowest loss, else the highest"
    )
    export: Literal["last", "best"] = Field("last", description="weights that are registered as the run's encoder")


class BranchSpec(Spec):
    """Start from a checkpoint of another pre-training, the trunk, instead of fresh weights."""

    run: Annotated[str, Field(pattern=RUN_ID_PATTERN, max_length=40)] = Field(description="id of the trunk")
    step: int = Field(ge=1, description="step of the trunk's checkpoint, best a milestone, which is never deleted")


def bad_field(field: str, message: str) -> UserError:
    """A ValueError of a model's validator could not name a field of a part."""
    return UserError(f"{field}: {message}", code="bad_spec", field=field)


PAIR_TOKENS = 5  # of a pair besides those of its image: four that are reserved, and one of the text


class PretrainSpec(JobSpec):
    """Pre-train a vision encoder from scratch. ``preset`` fills in every field that is not given."""

    preset: Name | None = Field(None, description="named starting point; fields of the spec override it")
    model: ModelSpec = ModelSpec()
    tokenizer: TokenizerSpec = TokenizerSpec()
    data: DataSpec = DataSpec()
    batch: BatchSpec = BatchSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    engine: EngineSpec = EngineSpec()
    steps: int = Field(1000, ge=1, le=100_000_000, description="optimiser steps")
    seed: int = Field(0, ge=0, lt=2**31, description="of weights, order of the data, crops and drop-outs")
    numerics: Literal["fixed", "official"] = Field(
        "fixed", description="official: the authors' behaviour, including faults"
    )
    precision: Precision = Field("auto", description="auto: bf16 where the hardware has it")
    log_every: int = Field(10, ge=1, description="steps between metric lines")
    checkpoint_every: int = Field(100, ge=1, description="steps between checkpoints")
    checkpoint_minutes: float | None = Field(
        5.0, gt=0, le=10_080, description="minutes after which one is written before that; none: by steps alone"
    )
    keep_checkpoints: int = Field(2, ge=1, le=100, description="newest checkpoints that are kept, beside milestones")
    milestone_every: int | None = Field(None, ge=1, description="checkpoints of these steps are never deleted")
    monitor: MonitorSpec | None = Field(
        None,
        description="measure held-out data while training, and keep the best weights; none: neither",
    )
    branch: BranchSpec | None = Field(None, description="start from a checkpoint of another run")

    @model_validator(mode="after")
    def _a_branch_trains(self) -> PretrainSpec:
        if self.branch is not None and self.steps <= self.branch.step:
            raise ValueError(f"steps counts those of the trunk too: it must be above branch.step {self.branch.step}")
        return self

    @model_validator(mode="after")
    def _official_is_the_authors_setting(self) -> PretrainSpec:
        if self.numerics == "official" and self.engine.accumulate > 1:
            raise ValueError("engine.accumulate needs numerics fixed: the authors' accumulation is not reproduced")
        chosen = {"contrastive_loss": "infonce", "positives": "own"}
        for name, theirs in chosen.items():
            if self.numerics == "official" and getattr(self.objective, name) != theirs:
                raise ValueError(f"objective.{name} must be {theirs} with numerics official: the authors have no other")
        return self

    @model_validator(mode="after")
    def _the_tower_fits(self) -> PretrainSpec:
        vision, kind = self.model.vision, tower_kind(self.model.vision)
        patchwise = " or ".join(name for name, each in VISION_TOWERS.items() if each.patchwise)
        if misfit := kind.misfit(self.model.tower_sizes):
            raise bad_field(f"model.{misfit[0]}", f"{misfit[1]}; or choose another model.vision")
        if METHODS[self.objective.name].masks_patches and not kind.patchwise:
            message = f"objective {self.objective.name} masks patches, which {vision} cannot; take {patchwise}"
            raise bad_field("model.vision", f"{message}, or another objective")
        if self.numerics == "official" and vision != DEFAULT_TOWER:
            raise bad_field("model.vision", f"the authors have {DEFAULT_TOWER} alone; take it, or numerics fixed")
        return self

    @model_validator(mode="after")
    def _the_method_fits(self) -> PretrainSpec:
        name, method = self.objective.name, METHODS[self.objective.name]
        if self.numerics == "official" and not method.official:
            known = ", ".join(other for other, its in METHODS.items() if its.official)
            raise bad_field("numerics", f"official is defined for {known} alone; take fixed for objective {name}")
        for number, source in enumerate(self.data.sources):
            if VIEW_ITEMS[source.view] not in method.reads:
                views = " or ".join(view for view, gives in VIEW_ITEMS.items() if gives in method.reads)
                others = ", ".join(other for other, its in METHODS.items() if VIEW_ITEMS[source.view] in its.reads)
                message = f"objective {name} learns from {views}, not from {source.view}; or choose {others}"
                raise bad_field(f"data.sources.{number}.view", message)
        return self

    @model_validator(mode="after")
    def _pairs_fit_the_context(self) -> PretrainSpec:
        views = {source.view for source in self.data.sources} | ({self.monitor.view} if self.monitor else set())
        least = self.model.num_image_tokens + PAIR_TOKENS
        if self.model.context_length < least and any(VIEW_ITEMS[view] == "pairs" for view in views):
            message = f"an image of {self.model.num_image_tokens} tokens leaves no room for its text"
            raise bad_field("model.context_length", f"{message}; take {least} at least, or raise model.patch_size")
        return self

    @model_validator(mode="after")
    def _the_monitor_is_apart(self) -> PretrainSpec:
        monitor, method = self.monitor, METHODS[self.objective.name]
        if monitor is None:
            return self
        items = VIEW_ITEMS[monitor.view]
        if items not in method.reads:
            views = " or ".join(view for view, gives in VIEW_ITEMS.items() if gives in method.reads)
            raise bad_field("monitor.view", f"objective {self.objective.name} reads {views}, not {monitor.view}")
        records = VIEW_RECORDS[monitor.view]
        for source in self.data.sources:
            same_records = source.dataset == monitor.dataset and VIEW_RECORDS[source.view] == records
            if same_records and (records == "documents" or source.split == monitor.split):
                raise bad_field("monitor.dataset", f"the run trains on these {records} of {monitor.dataset!r} itself")
        if monitor.choose.startswith(f"{HELD_OUT}retrieval") and "contrastive" not in method.weights:
            raise bad_field("monitor.choose", f"objective {self.objective.name} compares no images with texts")
        return self

    def references(self) -> References:
        datasets = {f"data.sources.{index}.dataset": source.dataset for index, source in enumerate(self.data.sources)}
        if self.monitor is not None:
            datasets["monitor.dataset"] = self.monitor.dataset
        return References(
            datasets,
            {} if self.model.init is None else {"model.init": self.model.init},
            paths={} if self.tokenizer.path is None else {"tokenizer.path": self.tokenizer.path},
        )

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, fields: Any) -> Any:
        return apply_preset("pretrain", fields)
