"""Beam search a token at a time. It finds what transformers' own finds with its defaults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lcl_core.model.caching import RoomyCache
from lcl_core.model.decoder import TextDecoder
from lcl_core.model.modeling import LCLModel
from lcl_core.model.prefixes import room

_NEVER = -1e9  # the score of what must not be chosen
Found = list[tuple[int, list[int]]]


@dataclass(slots=True)
class _Row:
    """One text's beginnings, and what has ended; scores are mean log-probabilities."""

    width: int
    running: list[list[int]]
    ended: list[tuple[float, list[int]]] = field(default_factory=list)

    def end(self, score: float, ids: list[int]) -> None:
        """Keep a text that has ended, if it is among the best."""
        self.ended = sorted([*self.ended, (score, ids)], key=lambda each: -each[0])[: self.width]

    def may_improve(self, best: float) -> bool:
        """Whether a beginning of that score could still come before those that have ended."""
        return len(self.ended) < self.width or best > self.ended[-1][0]


@torch.inference_mode()
def search_beams(model: LCLModel, prefix: Tensor, max_new_tokens: int, num_beams: int) -> Iterator[Found]:
    """Embeddings [n, L, D] → step by step, which rows are decided, as (row, ids with the end).

    Of each row ``num_beams`` beginnings are kept; a text's score is the mean log-probability of its tokens.
    """
    decoder, cache = TextDecoder(model), RoomyCache()
    ends = torch.tensor([model.config.eot_token_id, model.config.soi_token_id], device=prefix.device)
    rows = {row: _Row(num_beams, [[] for _ in range(num_beams)]) for row in range(len(prefix))}
    scores = prefix.new_full((len(prefix), num_beams), _NEVER, dtype=torch.float)
    scores[:, 0] = 0  # the beginnings are all the same at first
    offsets = torch.arange(len(prefix), device=prefix.device)[:, None] * num_beams
    new, last = prefix.repeat_interleave(num_beams, dim=0), room(model, prefix, max_new_tokens)
    for length in range(1, last + 1):
        following = decoder(inputs_embeds=new, cache=cache).logits[:, -1].log_softmax(-1)
        summed = (following.view(*scores.shape, -1) + scores[:, :, None]).flatten(1)
        # so many that enough of them go on, should the likeliest all end
        top, places = summed.topk((1 + len(ends)) * num_beams)
        parents, tokens = places // following.shape[-1], places % following.shape[-1]
        over = torch.isin(tokens, ends) | (length == last)
        scores, kept = (top + over * _NEVER).topk(num_beams)
        for row, state in rows.items():
            _take(state, top[row], parents[row], tokens[row], over[row], kept[row], length)
        best = (scores[:, 0] / length).tolist()
        decided = [row for row, state in rows.items() if length == last or not state.may_improve(best[row])]
        yield [(row, rows.pop(row).ended[0][1]) for row in decided]
        if not rows:
            return
        cache.reorder_cache((parents.gather(1, kept) + offsets).flatten())
        new = model.text.token_embedding(tokens.gather(1, kept).flatten())[:, None]


def _take(state: _Row, top: Tensor, parents: Tensor, tokens: Tensor, over: Tensor, kept: Tensor, length: int) -> None:
    """Go on from the candidates of one row: those among the best that are over end, the ``kept`` ones go on."""
    origins, words, is_over = parents.tolist(), tokens.tolist(), over.tolist()
    for rank, score in enumerate(top[: state.width].tolist()):
        if is_over[rank]:
            state.end(score / length, [*state.running[origins[rank]], words[rank]])
    state.running = [[*state.running[origins[rank]], words[rank]] for rank in kept.tolist()]
