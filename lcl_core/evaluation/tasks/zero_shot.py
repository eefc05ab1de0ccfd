"""Zero-shot classification: an image takes the class whose prompts are nearest (CLIP, arXiv 2103.00020, 3.1.4).

Each class is the mean of its prompts' text features. LCL encodes a text as the context of an image that would follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lcl_core.common.disk_cache import no_progress
from lcl_core.common.errors import UserError, import_optional
from lcl_core.evaluation.features import Heartbeat, check_finite, check_reads_texts
from lcl_core.evaluation.heads.linear_probe import collect_predictions, prediction_samples
from lcl_core.evaluation.results import IMAGE_TO_CLASS, PredictionFile
from lcl_core.evaluation.tasks.base import (
    EvalContext,
    EvaluationData,
    LabeledImages,
    SplitImages,
    Task,
    classes_of,
    select_labeled,
)
from lcl_core.specs.zero_shot import LOGIT_SCALE, PLAIN_TEMPLATES, plain_class_name

FIELD = "zero_shot_classification"
_IMAGE_BATCH = 4096


def prompt_templates(prompts: str) -> tuple[str, ...]:
    """Templates with ``{}`` for the class: ``plain`` or ``imagenet``."""
    if prompts == "plain":
        return PLAIN_TEMPLATES
    return tuple(fill("{}") for fill in _open_clip().OPENAI_IMAGENET_TEMPLATES)


def class_names(labels: Sequence[str], names: str, overrides: Mapping[str, str], *, field: str) -> tuple[str, ...]:
    """The name of each label in prompts.

    Args:
        names: ``labels``: the label itself, hyphens and underscores read as spaces; ``as_written``: the label as it is;
            ``imagenet``: open_clip's name of a synset, one of the thousand, which may be a part of them (ImageNet-R).
        overrides: names that come first, by label.
    """
    rest = [label for label in labels if label not in overrides]
    if names == "imagenet":
        named = _synset_names(rest, field) if rest else {}
    else:
        named = {label: label if names == "as_written" else plain_class_name(label) for label in rest}
    return tuple(overrides[label] if label in overrides else named[label] for label in labels)


def _synset_names(labels: Sequence[str], field: str) -> Mapping[str, str]:
    known = _imagenet_names()
    if unknown := [label for label in labels if label not in known]:
        raise UserError(
            f"ImageNet's names are for its thousand synsets (n01440764 …); {len(unknown)} of {len(labels)} classes are "
            f"none, {unknown[0]!r} first; choose the label key that holds synsets, or give class_names",
            field=field,
        )  # fmt: skip
    return known


@cache
def _imagenet_names() -> dict[str, str]:
    """open_clip's names by synset; it has them in the order of the synsets, which timm knows."""
    synsets = import_optional("timm.data", "ImageNet's synsets", extra="interop").ImageNetInfo("imagenet-1k")
    return dict(zip(synsets.label_names(), _open_clip().IMAGENET_CLASSNAMES, strict=True))


def _open_clip() -> Any:
    return import_optional("open_clip.zero_shot_metadata", "ImageNet's templates and names", extra="interop")


@torch.inference_mode()
def zero_shot_classifier(
    embed_texts: Callable[[Sequence[str]], Tensor],
    classes: Sequence[str],
    templates: Sequence[str],
    heartbeat: Heartbeat = no_progress,
) -> Tensor:
    """One column a class: the normalised mean of its prompts' normalised features.

    Args:
        embed_texts: texts → features [n, E], L2-normalised.
        templates: prompts with ``{}`` for the class.

    Returns:
        [E, C], fp32.
    """
    if not classes or not templates:
        raise UserError("a classifier needs at least one class and one template")
    if blind := [template for template in templates if "{}" not in template]:
        raise UserError(f"template {blind[0]!r} has no {{}} for the class's name")
    columns = []
    for name in classes:
        features = embed_texts([template.replace("{}", name) for template in templates])
        columns.append(F.normalize(features.float().mean(dim=0), dim=0))
        heartbeat()
    return torch.stack(columns, dim=1)


def class_scores(images: Tensor, classifier: Tensor) -> Tensor:
    """Logits [n, C] of pooled latents [n, E] and the columns of ``classifier`` [E, C]."""
    return LOGIT_SCALE * images @ classifier


@dataclass(frozen=True)
class LabelKeySplit:
    """One label key of one split.

    Attributes:
        classes: the split's labels in alphabetical order: a closed set.
        names: their names in prompts.
    """

    split: str
    label: str
    classes: tuple[str, ...]
    names: tuple[str, ...]
    test: LabeledImages


@dataclass(frozen=True)
class ZeroShotClassification(Task):
    """Classification by prompts, without training."""

    name = FIELD

    images: dict[str, SplitImages]
    keys: list[LabelKeySplit]
    templates: tuple[str, ...]

    @classmethod
    def plan(cls, data: EvaluationData) -> Self:
        spec = data.spec
        check_reads_texts(data.encoder(spec.encoder))
        own = spec.zero_shot_classification
        tests = data.test_images()
        keys = []
        for split, images in tests.items():
            for number, label in enumerate(dict.fromkeys(own.labels)):
                classes = classes_of(label, images, field=f"{FIELD}.labels.{number}")
                names = class_names(classes, own.names, own.class_names, field=f"{FIELD}.names")
                keys.append(LabelKeySplit(split, label, classes, names, select_labeled(images.images, label, classes)))
        return cls(tests, keys, own.templates or prompt_templates(own.prompts))

    def run(self, context: EvalContext) -> None:
        for key in self.keys:
            images = self.images[key.split]
            pooled = context.get_pooled_latents(images)
            context.enter(f"descriptions of {key.label} on {key.split}")
            classifier = self._classifier(context, key.names)
            parts = np.array_split(key.test.rows, -(-len(key.test) // _IMAGE_BATCH))
            logits = (class_scores(torch.from_numpy(pooled[part]), classifier) for part in parts)
            predictions = collect_predictions(logits, key.test.classes, field=FIELD)
            facts = {
                "candidates": len(key.classes), "left_out": key.test.left_out, "templates": len(self.templates),
            }  # fmt: skip
            file = PredictionFile(
                self.name,
                key.split,
                key.label,
                "zero_shot",
                "ranks",
                context.encoder.role,
                part=IMAGE_TO_CLASS,
                facts=facts,
            )
            context.predictions.add(
                file, prediction_samples(images.images, key.label, key.classes, key.test, predictions)
            )

    def _classifier(self, context: EvalContext, names: Sequence[str]) -> Tensor:
        """The classifier [E, C], through the feature cache."""

        def make(folder: Path) -> None:
            columns = zero_shot_classifier(
                context.encoder.embed_texts, names, self.templates, context.progress.heartbeat
            )
            np.save(folder / "columns.npy", check_finite(columns.numpy()))

        key = {
            "kind": "classes", "encoder": context.encoder.model.identity, "classes": list(names),
            "templates": list(self.templates),
        }  # fmt: skip
        arrays = context.cache.get_or_make(key, make, progress=context.progress.heartbeat)
        return torch.from_numpy(np.array(arrays["columns"]))
