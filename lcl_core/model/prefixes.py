"""What a text goes on from: documents as in training, without their end.

A caption follows ``<soi> img x N <eoi>`` (the layout of pairs, which has no ``sot``). With a text before the picture,
and for documents of several parts, the layout is that of interleaved documents: ``sot``, then texts and images in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lcl_core.data.document import Document, ImageSegment, TextSegment
from lcl_core.data.interleave import image_block, open_document
from lcl_core.errors import UserError
from lcl_core.model.configuration import LCLConfig
from lcl_core.model.modeling import LCLModel

if TYPE_CHECKING:
    from lcl_core.model.processor import LCLProcessor


def caption_ids(config: LCLConfig, processor: LCLProcessor, prompt: str = "", context: str = "") -> list[int]:
    """Ids of an image, ``context`` before it and ``prompt`` after it. Raises: UserError ``prompt_too_long``."""
    if context:
        ids = document_ids(config, processor, [context, None, *([prompt] if prompt else [])])
    else:
        tokenizer = processor.tokenizer
        ids = [*image_block(tokenizer, config.num_image_tokens), *(tokenizer.encode(prompt) if prompt else [])]
    if len(ids) >= config.context_length:
        message = "the texts leave no room for a caption; shorten them"
        raise UserError(message, code="prompt_too_long", field="context" if context else "prompt")
    return ids


def document_ids(config: LCLConfig, processor: LCLProcessor, parts: Sequence[str | None]) -> list[int]:
    """Ids of texts and (None) images in reading order; at most one more than ``context_length``."""
    segments = tuple(ImageSegment("") if part is None else TextSegment(part) for part in parts)
    enough = config.context_length + 1
    return open_document(Document("", segments), processor.tokenizer, config.num_image_tokens, enough)[:enough]


def check_room(config: LCLConfig, ids: Sequence[int], field: str) -> None:
    """Raises: UserError ``document_too_long`` where not even one token would fit behind."""
    if len(ids) >= config.context_length:
        message = (
            f"the document is longer than the {config.context_length - 1} tokens after which this encoder can go on "
            f"(a picture takes {config.num_image_tokens + 2}); leave out the oldest parts"
        )
        raise UserError(message, code="document_too_long", field=field)


@torch.inference_mode()
def caption_prefix(
    model: LCLModel, processor: LCLProcessor, pixel_values: Tensor, prompt: str = "", context: str = ""
) -> Tensor:
    """[n, 3, S, S] → embeddings [n, L, D], an image each between the same texts. Raises: as ``caption_ids``."""
    ids = caption_ids(model.config, processor, prompt, context)
    return torch.stack([_embedded(model, ids, tokens[None]) for tokens in model.encode_images(pixel_values)[1]])


@torch.inference_mode()
def document_prefix(model: LCLModel, ids: Sequence[int], pixel_values: Tensor) -> Tensor:
    """Ids of a document and its images [k, 3, S, S] → embeddings [1, L, D]."""
    if not len(pixel_values):
        return model.text.token_embedding(torch.tensor([ids], device=model.device))
    return _embedded(model, ids, model.encode_images(pixel_values)[1])[None]


def room(model: LCLModel, prefix: Tensor, wanted: int) -> int:
    """How many of the ``wanted`` tokens fit behind embeddings [n, L, D]."""
    return min(wanted, model.config.context_length - prefix.shape[1])


def _embedded(model: LCLModel, ids: Sequence[int], patch_tokens: Tensor) -> Tensor:
    token_ids = torch.tensor(ids, device=model.device)
    slots = torch.nonzero(token_ids == model.config.img_token_id).flatten()
    return model.embed(token_ids, slots, patch_tokens)
