"""Files that several export formats write, and the model card: the ``README.md`` of every export."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lcl_core.common.files import write_json_atomically
from lcl_core.encoders.files import read_json_object
from lcl_core.specs.data import CLIP_MEAN, CLIP_STD

PROCESSOR, IMAGE_PROCESSOR = "processor_config.json", "preprocessor_config.json"
TOKENIZER, TOKENIZER_SETTINGS = "tokenizer.json", "tokenizer_config.json"
CARD = "README.md"
_WRITTEN_BELOW = "<!-- written by lcl from here on -->"
_HEADER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_OURS = """---
library_name: lcl
pipeline_tag: image-feature-extraction
tags:
- lcl
---
## Use

```python
from lcl_core.encoders.engine import EncoderEngine
vectors = EncoderEngine("DIR").embed_images([image])
```
"""
Json = Mapping[str, Any]


def write_inputs(directory: Path, target: Path) -> None:
    """Tokenizer, processor, and the images' transform in the words that transformers' image processors use."""
    processor = read_json_object(directory / PROCESSOR)
    size, fit = processor["image_size"], processor.get("fit", "crop")
    for name in (TOKENIZER, PROCESSOR):
        shutil.copyfile(directory / name, target / name)
    square = {"height": size, "width": size}
    transform = {
        "image_processor_type": "CLIPImageProcessor",
        "fit": fit,  # which our own code reads
        "do_convert_rgb": True,
        "do_resize": True, "size": {"shortest_edge": size} if fit == "crop" else square, "resample": 3,
        "do_center_crop": fit == "crop", "crop_size": square,
        "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD),
    }  # fmt: skip
    write_json_atomically(target / IMAGE_PROCESSOR, transform)


def write_use(target: Path, words: str, recipe: str, library: str) -> None:
    """A README with how to load an export; ``model_card`` adds the rest. ``library``: by a hub's name."""
    header = _OURS.partition("## Use")[0].replace(": lcl", f": {library}", 1)
    text = f"{header}## Use\n\n{words.strip()}\n\n```python\n{recipe.strip()}\n```\n"
    (target / CARD).write_text(text, encoding="utf-8")


def model_card(name: str, own: str, spec: Json, data: Sequence[Json], figures: Sequence[Json], use: str = "") -> str:
    """The README of an encoder: a header that a hub reads, its own words, data, method, figures, and how to load it.

    ``own``: the README in the encoder's folder, or empty. ``spec``: of its training, or empty; from a file, so that
    nothing in it is sure. ``data``: datasets with ``dataset``, and as far as known ``documents`` and ``images``.
    ``figures``: results with a ``title``. ``use``: what ``write_use`` wrote for an export in another format.
    """
    header, words = _split(own.partition(_WRITTEN_BELOW)[0])
    ours, recipe = _split(use or _OURS)
    library, *rest = ours.splitlines()
    if header:
        rest = [line for line in header.splitlines() if not line.startswith("library_name:")]
    words = words.strip() or f"# {name}\n\nAn encoder of images and texts in one space."
    parts = [
        "\n".join(["---", library, *rest, "---"]),
        words,
        _WRITTEN_BELOW,
        _table("Data", ("dataset", "documents", "images"), data),
        _table("Method", ("setting", "value"), [{"setting": key, "value": value} for key, value in _method(spec)]),
        _table("Figures", ("title", "metric", "split", "value", "untrained", "chance"), figures),
        recipe.strip(),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def card_licence(text: str) -> str | None:
    """The ``license`` of a README's header, by the hub's name."""
    found = re.search(r"^license: *([A-Za-z0-9.+-]{1,60}) *$", _split(text)[0], re.MULTILINE)
    return found and found[1]


def card_body(text: str) -> str:
    """Own words, data and method of a model card."""
    own, _, ours = _split(text)[1].partition(_WRITTEN_BELOW)
    return own + re.split(r"\n## (?:Figures|Use)\n", ours)[0]


def _split(text: str) -> tuple[str, str]:
    """(header, rest) of a README."""
    found = _HEADER.match(text.replace("\r\n", "\n"))
    return (found[1], text.replace("\r\n", "\n")[found.end() :]) if found else ("", text)


def _method(spec: Json) -> list[tuple[str, Any]]:
    named = {
        "objective": "objective.name", "steps": "steps", "images a batch": "batch.images",
        "learning rate": "optimizer.lr", "vision tower": "model.vision", "image size": "model.image_size",
        "started from": "model.init", "seed": "seed",
    }  # fmt: skip
    found = []
    for words, path in named.items():
        value: Any = spec
        for field in path.split("."):
            value = value.get(field) if isinstance(value, Mapping) else None
        if value is not None:
            found.append((words, value))
    return found


def _table(title: str, columns: Sequence[str], rows: Sequence[Json]) -> str:
    if not rows:
        return ""
    lines = ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join((f"## {title}", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *lines))


def _cell(value: Any) -> str:
    """Plain characters: a name cannot end the table."""
    text = "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^\w .,:;@/→–%+()-]", " ", text)[:100]
