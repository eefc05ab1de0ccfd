"""Documents of texts and pictures, ready for the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from lcl_core.errors import UserError
from lcl_core.model import LCLConfig, LCLProcessor
from lcl_core.model.prefixes import check_room, document_ids
from lcl_core.serving.prepared import Prepared

FIELD = "document"  # what requests call it


@dataclass(frozen=True, slots=True)
class Page:
    """A document without its end.

    Attributes:
        ids: its tokens, placeholders of pictures included.
        pixels: f32 [k, 3, S, S], its pictures in order, on the CPU.
    """

    ids: list[int]
    pixels: Tensor


def lay_page(config: LCLConfig, processor: LCLProcessor, parts: Sequence[str | Image.Image | Prepared]) -> Page:
    """Lay texts and images out as training does interleaved documents.

    Raises:
        UserError: ``document_too_long``; ``image_unreadable`` naming the part.
    """
    ids = document_ids(config, processor, [part if isinstance(part, str) else None for part in parts])
    check_room(config, ids, FIELD)  # before pictures are prepared
    pictures = [_prepared(processor, part, place) for place, part in enumerate(parts) if not isinstance(part, str)]
    return Page(ids, torch.cat([processor.preprocess([]), *pictures]))


def _prepared(processor: LCLProcessor, image: Image.Image | Prepared, place: int) -> Tensor:
    try:
        if isinstance(image, Image.Image):
            return processor.preprocess([image])
        if image.pixels is not None:
            return image.pixels.unsqueeze(0)
        raise image.error or ValueError("no pixels")
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises whatever a broken picture makes it
        message = f"the picture cannot be read ({error}); send another"
        raise UserError(message, code="image_unreadable", field=f"{FIELD}.{place}") from error
