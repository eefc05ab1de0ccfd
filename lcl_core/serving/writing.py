"""Texts written a step at a time, each for its reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lcl_core.model import LCLModel, LCLProcessor
from lcl_core.model.beams import search_beams
from lcl_core.model.generation import write
from lcl_core.model.spelling import Spelling
from lcl_core.serving.readers import Reader

if TYPE_CHECKING:
    from lcl_core.serving.options import CaptionOptions

Written = list[tuple[int, str]]


@torch.inference_mode()
def write_texts(
    model: LCLModel,
    processor: LCLProcessor,
    prefix: Tensor,
    options: CaptionOptions,
    seeds: Sequence[int],
    readers: Sequence[Reader],
) -> Iterator[Written]:
    """After embeddings [n, L, D]: step by step, which texts are complete, as (row, text).

    Readers are told the pieces: of a beam search one, since which beginning wins is known at the end alone. A row whose
    reader has left is complete with what there is.
    """
    if options.num_beams > 1:
        yield from _search(model, processor, prefix, options, readers)
        return
    open_rows = {row: Spelling(processor) for row in range(len(readers))}
    for ids in write(model, prefix, options.max_new_tokens, options.top_p, options.temperature, seeds):
        tokens = ids.tolist()
        for row, spelling in open_rows.items():
            readers[row].tell(spelling.add(tokens[row]))
        over = [row for row, spelling in open_rows.items() if spelling.ended or readers[row].has_left]
        yield _close(open_rows, readers, over)
        if not open_rows:
            return
    yield _close(open_rows, readers, list(open_rows))


def _search(
    model: LCLModel, processor: LCLProcessor, prefix: Tensor, options: CaptionOptions, readers: Sequence[Reader]
) -> Iterator[Written]:
    missing = set(range(len(readers)))
    for found in search_beams(model, prefix, options.max_new_tokens, options.num_beams):
        texts = {row: processor.decode(ids) for row, ids in found if row in missing}
        for row, text in texts.items():
            readers[row].tell(text)
        texts |= {row: "" for row in missing - texts.keys() if readers[row].has_left}
        missing -= texts.keys()
        yield list(texts.items())
        if not missing:
            return


def _close(open_rows: dict[int, Spelling], readers: Sequence[Reader], rows: Sequence[int]) -> Written:
    """Take rows out; their texts."""
    done = {row: open_rows.pop(row) for row in rows}
    for row, spelling in done.items():
        readers[row].tell(spelling.rest())
    return [(row, spelling.text) for row, spelling in done.items()]
