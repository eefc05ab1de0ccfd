"""Encoders that come with the product, each in a folder of its own with its model card in ``README.md``.

A folder is never rewritten, since collections are bound to the hash of an encoder's weights: a better encoder gets a
folder of a new name, and ``superseded`` in the ``origin.json`` of the older one names it. A database that has the older
one keeps it; a new one does not get it.

``figures.json`` has the test figures of the model cards. It is beside the folders, since an encoder's identity is a
hash over the JSON files of its folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
        figures: test figures of its model card, each with ``task``, ``split``, ``variant``, ``metric``, ``value``,
            ``chance``, ``untrained`` and ``count`` (images).
        superseded: name of the encoder that came after it; None: it is offered.
    """

    name: str
    directory: Path
    hash: str
    info: dict[str, Any]
    figures: tuple[dict[str, Any], ...] = ()
    superseded: str | None = None


def pretrained_encoders() -> list[PretrainedEncoder]:
    """All of them, by name. Reads small JSON files alone."""
    folder = Path(str(resources.files(__name__))).resolve()
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    return [_read_encoder(path, figures.get(path.parent.name, ())) for path in sorted(folder.glob("*/origin.json"))]


def _read_encoder(path: Path, figures: Sequence[dict[str, Any]]) -> PretrainedEncoder:
    info = json.loads(path.read_text(encoding="utf-8"))
    weights, superseded = info.pop("hash"), info.pop("superseded", None)
    return PretrainedEncoder(path.parent.name, path.parent, weights, info, tuple(figures), superseded)
