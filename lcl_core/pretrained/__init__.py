"""Encoders that come with the product, each in a folder of its own with its model card in ``README.md``.

A folder is never rewritten, since collections are bound to the hash of an encoder's weights: a better encoder gets a
folder of a new name, and ``superseded`` in the ``origin.json`` of the older one names it. A database that has the older
one keeps it; a new one does not get it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PretrainedEncoder:
    """An encoder that comes with the product.

    Attributes:
        hash: sha256 of its weights, hexadecimal.
        info: of its training run: parameters, images_seen, steps, seconds …
        superseded: name of the encoder that came after it; None: it is offered.
    """

    name: str
    directory: Path
    hash: str
    info: dict[str, Any]
    superseded: str | None = None


def pretrained_encoders() -> list[PretrainedEncoder]:
    """All of them, by name. Reads small JSON files alone."""
    folder = Path(str(resources.files(__name__))).resolve()
    return [_read_encoder(path) for path in sorted(folder.glob("*/origin.json"))]


def _read_encoder(path: Path) -> PretrainedEncoder:
    info = json.loads(path.read_text(encoding="utf-8"))
    weights, superseded = info.pop("hash"), info.pop("superseded", None)
    return PretrainedEncoder(path.parent.name, path.parent, weights, info, superseded)
