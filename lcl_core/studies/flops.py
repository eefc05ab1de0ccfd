"""The floating-point operations of a training that has ended, from what it has read.

The products that the mathematics needs, forward and backward (twice the forward), one pass through each tower a
picture and a document, padding not counted. A method that reads its documents several times computes more.
"""

from __future__ import annotations

from lcl_core.costs.flops import step_flops
from lcl_core.costs.sizes import sizes_of
from lcl_core.specs import PretrainSpec


def training_flops(spec: PretrainSpec, images: int, tokens: int, documents: int) -> float:
    """Of a training that has read so many images, tokens (those of images among them) and documents."""
    count, patches = max(documents, 1), spec.kept_patches
    texts = max(tokens - images * patches, 0)
    return count * step_flops(sizes_of(spec), [tokens / count], images / count, texts / count, patches)
