"""Zero-shot classification: classes are described in words, and a picture takes the description that lies nearest.

Each class is the mean of its prompts' text features (CLIP, arXiv 2103.00020, section 3.1.4); LCL reads a text as the
context of an image that would come next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lcl_core.errors import UserError

SCALE = 100.0  # CLIP's inverse temperature at evaluation; it changes probabilities, not ranks


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
    return SCALE * images @ classifier
