"""The tables of docs/recipes.md: what the presets of the paper's sizes need, by ``lcl submit --dry-run``.

``python -m scripts.recipe_tables`` writes them into the page between its markers; a test compares the page with them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from lcl_core.common.errors import UserError
from lcl_core.estimate.report import estimate_pretraining
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import PretrainSpec

PAGE = Path(__file__).resolve().parent.parent / "docs" / "recipes.md"
RECIPES = ("vit_b32_mmc4", "vit_b16_laion", "vit_l14_mix")
RATES = (50e12, 150e12)  # useful operations a second of a GPU
MARKED = re.compile(
    r"(?<=<!-- figures: see scripts/recipe_tables.py -->\n\n).*?(?=\n\n<!-- end of figures -->)", re.DOTALL
)


def recipe(name: str) -> PretrainSpec:
    spec = parse_spec("pretrain", {"preset": name})
    assert isinstance(spec, PretrainSpec)
    return spec


def tables() -> str:
    """Both tables as Markdown."""
    needs = ["| preset | model | parameters | images | documents | operations | memory of a GPU | checkpoint | disk |"]
    hours = ["| preset | GPUs | at 50 TFLOP/s a GPU | at 150 TFLOP/s a GPU |", "|---|---|---|---|"]
    needs.append("|---|---|---|---|---|---|---|---|---|")
    for name in RECIPES:
        spec = recipe(name)
        found = estimate_pretraining(spec, [], "gpu")
        model, gpus = spec.model, spec.engine.nodes * spec.engine.processes
        sizes = f"{model.vision_width} × {model.vision_layers}, text {model.text_width} × {model.text_layers}"
        needs.append(
            f"| `{name}` | {sizes}, {model.image_size} pixels | {found.parameters / 1e6:.0f} M "
            f"| {found.samples.images / 1e6:.0f} M | {found.samples.documents / 1e6:.0f} M | {found.flops:.1e} "
            f"| {found.memory_bytes.expected / 2**30:.0f} GiB | {found.checkpoint_bytes / 1e9:.1f} GB "
            f"| {found.disk_bytes / 1e9:.0f} GB |"
        )
        spent = " | ".join(f"{found.flops / gpus / rate / 3600:.0f} h" for rate in RATES)
        hours.append(f"| `{name}` | {gpus} | {spent} |")
    return "\n".join([*needs, "", *hours])


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    if not MARKED.search(text):
        raise UserError(f"{PAGE} has no place for figures", code="docs_broken")
    PAGE.write_text(MARKED.sub(tables(), text), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")


if __name__ == "__main__":
    main()
