"""The one vocabulary of REST, command line, workers and page: what a job is to do. Knows no torch.

Every field carries its meaning, unit and bounds; forms and documentation are made from the JSON schema.
Here: what zero-shot classification is to evaluation, client and page. The client alone has it, too, without a library.
"""

from __future__ import annotations

import re

PLAIN_TEMPLATES = ("{}", "a {}", "a picture of a {}", "a photo of a {}.", "a drawing of a {}.")
LOGIT_SCALE = 100.0  # CLIP's inverse temperature at evaluation; it changes probabilities, not ranks


def plain_class_name(label: str) -> str:
    """A label as a name in prompts: hyphens and underscores are read as spaces."""
    return re.sub(r"[_-]+", " ", label).strip() or label
