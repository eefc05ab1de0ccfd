"""NoCaps: ``nocaps_val_4500_captions.json`` and ``nocaps_test_image_info.json``, as COCO captions with a domain.

``source`` of a record is the domain of its image: ``in-domain``, ``near-domain`` or ``out-domain``, as COCO's classes
are in it; empty where the file does not tell (the test images). Source: https://nocaps.org
"""

from __future__ import annotations

import re
from typing import Any

from lcl_core.data.formats.base import BadValue
from lcl_core.data.formats.coco import CocoReader

DOMAINS = ("in-domain", "near-domain", "out-domain")


class NoCapsReader(CocoReader):
    """Pair records, ten captions an image where they are public."""

    format = "nocaps"
    files = re.compile(r"nocaps_((?:val|test).*)\.json", re.I)

    def source_of(self, image: dict[str, Any]) -> str:
        domain = image.get("domain") or ""
        if domain and domain not in DOMAINS:
            raise BadValue(f"domain {str(domain)[:60]!r} is none of {', '.join(DOMAINS)}")
        return str(domain)
