"""Useful operations of a forward pass of each pre-training method, over what a batch holds.

A batch that is there is counted exactly; one that is only expected, as a mean document times how many there are: every
formula is linear in documents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lcl_core.costs.flops import head_flops, pooling_flops, text_flops, vision_flops
from lcl_core.costs.sizes import Sizes
from lcl_core.specs import MethodName, ObjectiveSpec

CONTEXT_TOKENS = 77  # of a text that stands for itself, as the authors cut it for their zero-shot tests
_ENDS = 2  # <soi> and <eoi> of an image; start and end of a text


@dataclass(frozen=True)
class Load:
    """What a forward pass meets; counts may be means.

    Attributes:
        images, patches: pictures, and patches of each that are looked at.
        lengths: tokens of each row that the text tower reads, those of images among them. Where a method reads pairs
            twice, the rows with their image come first.
        labels: places where a token is predicted.
        restored: hidden patches that are predicted.
    """

    images: float
    patches: int
    lengths: Sequence[float]
    labels: float
    restored: float = 0.0


def reading(config: Sizes, load: Load, *, latents: bool = True, tokens: bool = True, causal: bool = True) -> float:
    """One pass over pictures and rows. ``latents``, ``tokens``: what the pooler gives."""
    pictures = vision_flops(config, load.images, load.patches)
    pooling = pooling_flops(config, load.images, load.patches, latents=latents, tokens=tokens)
    return pictures + pooling + text_flops(config, load.lengths, causal=causal) + head_flops(config, load.labels)


def clip(config: Sizes, load: Load) -> float:
    return reading(config, load, tokens=False)


def blip2(config: Sizes, load: Load) -> float:
    """A third pass shows every pair three times; a negative text counts as long as the image's own."""
    rows = [*load.lengths[: round(load.images)]] * 3
    return reading(config, load) + text_flops(config, rows, causal=False)


def flamingo(config: Sizes, load: Load) -> float:
    return reading(config, load, latents=False)


def emu(config: Sizes, load: Load) -> float:
    return flamingo(config, load) + load.images * load.patches * 2 * config.text_width**2


def beit3(config: Sizes, load: Load) -> float:
    restoring = load.restored * 2 * config.text_width * 3 * config.patch_size**2
    return reading(config, load, latents=False, causal=False) + restoring


FORWARD: Mapping[MethodName, Callable[[Sizes, Load], float]] = {
    "lcl": reading,
    "clip": clip,
    "coca": reading,
    "blip2": blip2,
    "beit3": beit3,
    "flamingo": flamingo,
    "emu": emu,
}


def expected(objective: ObjectiveSpec, images: float, patches: int, tokens: float) -> Load:
    """Of one mean document, as the method lays it out.

    Args:
        images, tokens: that it holds; the tokens of its images, with start and end of each, are among them.
    """
    words = max(tokens - images * (patches + _ENDS) - _ENDS, 0.0)
    name = objective.name
    if name in ("clip", "coca", "blip2"):
        context = min(words + _ENDS, CONTEXT_TOKENS)
        behind = [] if name == "clip" else [patches + _ENDS + words + 1]
        return Load(images, patches, [*behind, context], 0.0 if name == "clip" else words + 1)
    if name == "beit3":
        masked = objective.text_mask_ratio * words
        return Load(images, patches, [tokens], masked, objective.image_mask_ratio * images * patches)
    labels = max(tokens - images * (patches + 1) - 1, 0.0)
    return Load(images, patches, [tokens], labels)
