"""Zero-shot classification: classes are described in words, and a picture takes the description that lies nearest.

Each class is the mean of its prompts' text features (CLIP, arXiv 2103.00020, section 3.1.4); a text is read as the
context of an image that would come next.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from lcl_core.data.tokenizer import Tokenizer
from lcl_core.errors import UserError
from lcl_core.model import LCLModel

TEXT_TOKENS = 77  # a prompt's length in the authors' evaluation
SCALE = 100.0  # CLIP's inverse temperature at evaluation; it changes probabilities, not ranks


@torch.inference_mode()
def zero_shot_classifier(
    model: LCLModel, tokenizer: Tokenizer, classes: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """One column a class: the normalised mean of its prompts' normalised features.

    Args:
        templates: prompts with ``{}`` in the class's place.

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
        ids = _prompts(tokenizer, [template.replace("{}", name) for template in templates])
        length = min(TEXT_TOKENS, model.config.context_length)
        features = model.get_text_features(input_ids=ids.to(model.device), context_length=length)
        columns.append(F.normalize(features.mean(dim=0), dim=0))
    return torch.stack(columns, dim=1)


@torch.inference_mode()
def classify(model: LCLModel, pixel_values: Tensor, classifier: Tensor) -> Tensor:
    """Scores [n, C] of images [n, 3, S, S] against the columns of ``classifier`` [E, C]; the highest is the answer."""
    return SCALE * model.get_image_features(pixel_values=pixel_values) @ classifier


def _prompts(tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """Rows ``sot text eot 0 …``."""
    specials = tokenizer.specials
    rows = [torch.tensor([specials.sot, *tokenizer.encode(text), specials.eot]) for text in texts]
    return pad_sequence(rows, batch_first=True, padding_value=specials.pad)
