"""Zero-shot classification: an image takes the class whose prompts are nearest (CLIP, arXiv 2103.00020, 3.1.4).

Each class is the mean of its prompts' text features. LCL encodes a text as the context of an image that would follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lcl_core.common.disk_cache import no_progress
from lcl_core.common.errors import UserError, import_optional
from lcl_core.evaluation.classifiers import collect_predictions, store_predictions
from lcl_core.evaluation.features import Heartbeat, check_finite, check_reads_texts
from lcl_core.evaluation.tasks.base import (
    EvalContext,
    EvaluationData,
    LabeledImages,
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


def class_names(labels: Sequence[str], names: str, *, field: str) -> tuple[str, ...]:
    """The name of each label in prompts.

    ``names``: ``labels``: the label itself, hyphens and underscores read as spaces; ``as_written``: the label as it is;
    ``imagenet``: open_clip's name of a synset, one of the thousand, which may be a part of them (ImageNet-R).
    """
    if names != "imagenet":
        return tuple(label if names == "as_written" else plain_class_name(label) for label in labels)
    named = _imagenet_names()
    if unknown := [label for label in labels if label not in named]:
        raise UserError(
            f"ImageNet's names are for its thousand synsets (n01440764 …); {len(unknown)} of {len(labels)} classes are "
            f"none, {unknown[0]!r} first; choose the label key that holds synsets, or other names",
            field=field,
        )  # fmt: skip
    return tuple(named[label] for label in labels)


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
class ZeroShotClassification(Task):
    """Classification by prompts, without training.

    Attributes:
        tests: of each split and label key, the images with the label, and the names of its classes in prompts. The
            classes are the split's labels in alphabetical order: a closed set.
    """

    name = FIELD

    tests: list[tuple[LabeledImages, tuple[str, ...]]]
    templates: tuple[str, ...]

    @classmethod
    def plan(cls, data: EvaluationData) -> Self:
        check_reads_texts(data.encoder(data.spec.encoder))
        own = data.spec.zero_shot_classification
        tests = []
        for images in data.test_images().values():
            for number, label in enumerate(dict.fromkeys(own.labels)):
                classes = classes_of(label, images, field=f"{FIELD}.labels.{number}")
                names = class_names(classes, own.names, field=f"{FIELD}.names")
                tests.append((select_labeled(images, label, classes), names))
        return cls(tests, own.templates or prompt_templates(own.prompts))

    def run(self, context: EvalContext) -> None:
        for test, names in self.tests:
            pooled = context.get_pooled_latents(test.split)
            context.enter(f"descriptions of {test.label} on {test.split.split}")
            classifier = zero_shot_classifier(
                context.encoder.embed_texts, names, self.templates, context.progress.heartbeat
            )
            check_finite(classifier.numpy())
            parts = np.array_split(test.rows, -(-len(test) // _IMAGE_BATCH))
            logits = (class_scores(torch.from_numpy(pooled[part]), classifier) for part in parts)
            store_predictions(
                context, test, collect_predictions(logits, test.classes, field=FIELD),
                facts={"templates": len(self.templates)}, task=FIELD, variant=test.label, transfer="zero_shot",
            )  # fmt: skip
