"""Captions and continuations from the pre-trained pair of towers, a token at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lcl_core.model.beams import search_beams
from lcl_core.model.caching import RoomyCache
from lcl_core.model.decoder import TextDecoder
from lcl_core.model.modeling import LCLModel
from lcl_core.model.prefixes import caption_prefix, room

if TYPE_CHECKING:
    from lcl_core.model.processor import LCLProcessor


@torch.inference_mode()
def generate_captions(
    model: LCLModel,
    processor: LCLProcessor,
    pixel_values: Tensor,
    prompt: str = "",
    context: str = "",
    max_new_tokens: int = 24,
    num_beams: int = 1,
    top_p: float | None = None,
    temperature: float = 1.0,
    seed: int = 0,
) -> list[str]:
    """One text an image.

    Args:
        pixel_values: [n, 3, S, S].
        prompt: the caption's beginning; the answer continues it.
        context: text before the image.
        num_beams: 1 is greedy (unless ``top_p`` asks for sampling), more is beam search.
        top_p: nucleus sampling with this mass.
        seed: of the sampling; image i is drawn with ``seed`` + i, whatever is written beside it.

    Raises:
        UserError: ``prompt_too_long``: image, texts and new tokens do not fit into the context.
    """
    prefix = caption_prefix(model, processor, pixel_values, prompt, context)
    if num_beams > 1:
        found = dict(row for rows in search_beams(model, prefix, max_new_tokens, num_beams) for row in rows)
        return [processor.decode(found[row]) for row in range(len(prefix))]
    ends = torch.tensor([model.config.eot_token_id, model.config.soi_token_id], device=prefix.device)
    seeds = range(seed, seed + len(prefix))
    written: list[Tensor] = []
    ended = torch.zeros(len(prefix), dtype=torch.bool, device=prefix.device)
    for ids in write(model, prefix, max_new_tokens, top_p, temperature, seeds):
        written.append(ids)
        ended |= torch.isin(ids, ends)
        if ended.all():
            break
    return [processor.decode(row) for row in torch.stack(written, dim=1).tolist()] if written else []


@torch.inference_mode()
def write(
    model: LCLModel,
    prefix: Tensor,
    max_new_tokens: int,
    top_p: float | None = None,
    temperature: float = 1.0,
    seeds: Sequence[int] = (),
) -> Iterator[Tensor]:
    """The tokens [n] that come next after embeddings [n, L, D], one step at a time, until nobody asks for more.

    At most ``max_new_tokens``, and no more than there is room for. The likeliest ones, or with ``top_p`` drawn, each
    row by its own one of ``seeds``. Ends are tokens like others: it is for the caller to stop.
    """
    decoder, cache = TextDecoder(model), RoomyCache()
    draws = [torch.Generator(prefix.device).manual_seed(seed) for seed in seeds]
    new = prefix
    for _ in range(room(model, prefix, max_new_tokens)):
        scores = decoder(inputs_embeds=new, cache=cache).logits[:, -1]
        ids = scores.argmax(dim=-1) if top_p is None else _draw(scores / temperature, top_p, draws)
        yield ids
        new = model.text.token_embedding(ids)[:, None]


def _draw(scores: Tensor, top_p: float, draws: Sequence[torch.Generator]) -> Tensor:
    """[n, V] → [n] drawn from the likeliest tokens that together have ``top_p`` of the probability."""
    if top_p < 1:
        ascending, order = scores.sort(dim=-1)
        unlikely = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        unlikely[:, -1] = False
        scores = scores.masked_fill(unlikely.scatter(1, order, unlikely), -torch.inf)
    rows = scores.softmax(dim=-1)
    return torch.cat([torch.multinomial(row, 1, generator=draw) for row, draw in zip(rows, draws, strict=True)])
