"""Zero-shot classification as evaluation, client and page share it: templates, names of classes, inverse temperature.

Knows no library: the client alone has it, too.
"""

from __future__ import annotations

import re

PLAIN_TEMPLATES = ("{}", "a {}", "a picture of a {}", "a photo of a {}.", "a drawing of a {}.")
LOGIT_SCALE = 100.0  # CLIP's inverse temperature at evaluation; it changes probabilities, not ranks


def plain_class_name(label: str) -> str:
    """A label as a name in prompts: hyphens and underscores are read as spaces."""
    return re.sub(r"[_-]+", " ", label).strip() or label
