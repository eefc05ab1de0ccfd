"""Zero-shot classification: an image takes the class whose prompts are nearest (CLIP, arXiv 2103.00020, 3.1.4).

Each class is the mean of its prompts' text features. LCL encodes a text as the context of an image that would follow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lcl_core.common.errors import UserError
from lcl_core.common.optional import import_optional
from lcl_core.data import Corpus
from lcl_core.evaluation.features import EvaluatedEncoder, check_finite
from lcl_core.evaluation.heads.linear_probe import collect_predictions, prediction_samples
from lcl_core.evaluation.predictions import IMAGE_TO_CLASS, PredictionFile
from lcl_core.evaluation.tasks.base import (
    TEXT_COST,
    DatasetResolver,
    EvalContext,
    EvalImage,
    LabeledImages,
    Task,
    classes_of,
    select_labeled,
)
from lcl_core.specs.evaluate import EvaluateSpec

PLAIN_TEMPLATES = ("{}", "a {}", "a picture of a {}", "a photo of a {}.", "a drawing of a {}.")
_SYNSET = re.compile(r"n\d{8}")
_SYNSET_COUNT = 1000


def prompt_templates(prompts: str) -> tuple[str, ...]:
    """Templates with ``{}`` in the class's place: ``plain`` or ``imagenet``.

    Raises:
        UserError: ``missing_extra`` when open_clip is asked for and not installed.
    """
    if prompts == "plain":
        return PLAIN_TEMPLATES
    return tuple(fill("{}") for fill in _open_clip().OPENAI_IMAGENET_TEMPLATES)


def class_names(labels: Sequence[str], names: str, given: Mapping[str, str], *, field: str) -> tuple[str, ...]:
    """What each label is called, in their order: as ``given``, else as ``names`` says.

    ``labels`` takes their own words, hyphens and underscores read as spaces; ``imagenet`` the names that open_clip
    holds for the thousand synsets in their order.

    Raises:
        UserError: ``class_unnamed`` if labels are no synsets of ImageNet, ``missing_extra`` without open_clip.
    """
    known = _synset_names(labels, field) if names == "imagenet" else map(_plain, labels)
    return tuple(given.get(label, word) for label, word in zip(labels, known, strict=True))


def _synset_names(labels: Sequence[str], field: str) -> Sequence[str]:
    if len(labels) != _SYNSET_COUNT or not all(map(_SYNSET.fullmatch, labels)):
        raise UserError(
            f"ImageNet's names are for its thousand synsets (n01440764 …); here are {len(labels)} classes, "
            f"{labels[0]!r} first; choose the label key that holds synsets, or give class_names",
            code="class_unnamed", field=field,
        )  # fmt: skip
    return _open_clip().IMAGENET_CLASSNAMES  # in the order of the synsets, as sorted labels are


def _plain(label: str) -> str:
    return re.sub(r"[_-]+", " ", label).strip() or label


def _open_clip() -> Any:
    return import_optional("open_clip.zero_shot_metadata", "ImageNet's templates and names", extra="interop")


LOGIT_SCALE = 100.0  # CLIP's inverse temperature at evaluation; it changes probabilities, not ranks


@torch.inference_mode()
def zero_shot_classifier(
    embed_texts: Callable[[Sequence[str]], Tensor],
    classes: Sequence[str],
    templates: Sequence[str],
    on_texts: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """One column a class: the normalised mean of its prompts' normalised features.

    Args:
        embed_texts: texts → features [n, E], L2-normalised.
        templates: prompts with ``{}`` in the class's place.
        on_texts: called with the number of texts of each class.

    Returns:
        [E, C], fp32.

    Raises:
        UserError: ``bad_templates`` if there is no class or no template, or a template has no ``{}``.
    """
    if not classes or not templates:
        raise UserError("a classifier needs at least one class and one template", code="bad_templates")
    if blind := [template for template in templates if "{}" not in template]:
        raise UserError(f"template {blind[0]!r} has no {{}} for the class's name", code="bad_templates")
    columns = []
    for name in classes:
        features = embed_texts([template.replace("{}", name) for template in templates])
        columns.append(F.normalize(features.float().mean(dim=0), dim=0))
        on_texts(len(templates))
    return torch.stack(columns, dim=1)


def class_scores(images: Tensor, classifier: Tensor) -> Tensor:
    """Scores [n, C] of pooled latents [n, E] against the columns of ``classifier`` [E, C]; the highest answers."""
    return LOGIT_SCALE * images @ classifier


FIELD = "zero_shot_classification"
_IMAGE_BATCH = 4096


@dataclass(frozen=True)
class LabelKeySplit:
    """One label key of one split.

    Attributes:
        classes: the split's labels, in alphabetical order: a closed set.
        words: what they are called in the prompts.
    """

    split: str
    label: str
    classes: tuple[str, ...]
    words: tuple[str, ...]
    asked: LabeledImages


@dataclass(frozen=True)
class ZeroShotClassification(Task):
    """Every picture takes the class whose descriptions lie nearest; nothing is trained."""

    name = "zero_shot_classification"

    galleries: dict[str, list[EvalImage]]
    namings: list[LabelKeySplit]
    templates: tuple[str, ...]

    @classmethod
    def plan(cls, spec: EvaluateSpec, corpus: Corpus, places: DatasetResolver) -> Self:
        own = spec.zero_shot_classification
        galleries = places.tested(spec, corpus)
        namings = []
        for split, pictures in galleries.items():
            for place, label in enumerate(dict.fromkeys(own.labels)):
                classes = classes_of(label, split, pictures, field=f"{FIELD}.labels.{place}")
                words = class_names(classes, own.names, own.class_names, field=f"{FIELD}.names")
                namings.append(LabelKeySplit(split, label, classes, words, select_labeled(pictures, label, classes)))
        return cls(galleries, namings, own.templates or prompt_templates(own.prompts))

    def units(self) -> float:
        texts = sum(len(naming.classes) for naming in self.namings) * len(self.templates)
        return sum(map(len, self.galleries.values())) + TEXT_COST * texts

    def sit(self, room: EvalContext, encoder: EvaluatedEncoder) -> None:
        for naming in self.namings:
            pictures = self.galleries[naming.split]
            pooled = room.look(encoder, naming.split, pictures).pooled
            if pooled is None:
                raise UserError("this encoder has no pooled latents to classify by", code="no_latents", field="tasks")
            room.progress.enter(f"{encoder.role} encoder: descriptions of {naming.label} on {naming.split}")
            columns = self._columns(room, encoder, naming.words)
            parts = np.array_split(naming.asked.rows, -(-len(naming.asked) // _IMAGE_BATCH))
            logits = (class_scores(torch.from_numpy(pooled[part]), columns) for part in parts)
            answers = collect_predictions(logits, naming.asked.classes, field=FIELD)
            facts = {
                "candidates": len(naming.classes), "left_out": naming.asked.left_out, "templates": len(self.templates),
            }  # fmt: skip
            sheet = PredictionFile(
                self.name, naming.split, naming.label, "zero_shot", "ranks", encoder.role,
                part=IMAGE_TO_CLASS, facts=facts,
            )  # fmt: skip
            room.records.add(sheet, prediction_samples(pictures, naming.classes, naming.asked, answers))

    def _columns(self, room: EvalContext, encoder: EvaluatedEncoder, words: Sequence[str]) -> Tensor:
        """The classifier, from the cache where it was made before."""

        def make(folder: Path) -> None:
            columns = zero_shot_classifier(
                encoder.embed_texts, words, self.templates, lambda count: room.progress.add(TEXT_COST * count)
            )
            np.save(folder / "columns.npy", check_finite(columns.numpy()))

        facts = {
            "kind": "classes", "encoder": encoder.tower.identity, "classes": list(words),
            "templates": list(self.templates),
        }  # fmt: skip
        return torch.from_numpy(np.array(room.cache.get_or_make(facts, make)["columns"]))
