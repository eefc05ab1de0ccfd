"""The caption metrics of a whole corpus, each with what a bootstrap or a paired test needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from lcl_core.errors import UserError
from lcl_core.transfer.language import bleu
from lcl_core.transfer.language.cider import cider
from lcl_core.transfer.language.meteor import Program, find_program, meteor
from lcl_core.transfer.language.rouge import rouge_l
from lcl_core.transfer.language.tokenizer import tokenize_all

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class CaptionScores:
    """N pictures, in the order of ``pictures``.

    Attributes:
        values: of the corpus: ``BLEU-1`` … ``BLEU-4``, ``ROUGE-L``, ``CIDEr`` (the COCO evaluation's, that is
            CIDEr-D), ``CIDEr (first form)`` and, where Java is present, ``METEOR``.
        per_picture: [N] of each picture. The value of ROUGE-L and of both CIDErs is their mean; that of BLEU
            and METEOR is not.
        bleu_counts: [N, 10] as :func:`lcl_core.transfer.language.bleu.counts` gives them; sums of drawn rows
            go to :func:`lcl_core.transfer.language.bleu.scores`.
        missing: pictures without a caption; they were scored with an empty one.
        left_out: metrics that could not be had, with the reason.
    """

    pictures: list[str]
    values: dict[str, float]
    per_picture: dict[str, Numbers]
    bleu_counts: Numbers
    missing: list[str]
    left_out: dict[str, str] = field(default_factory=dict)


def score_captions(
    hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]], *, with_meteor: bool = True
) -> CaptionScores:
    """Score one caption a picture against its references.

    Args:
        hypotheses: caption of each picture; captions of unknown pictures are ignored.
        references: one or more captions of each picture.

    Raises:
        UserError: ``no_references``, when there is none at all or a picture has none.
    """
    bare = [picture for picture, captions in references.items() if not captions]
    if not references or bare:
        raise UserError(f"no reference captions{f' for {bare[0]}' if bare else ''}", code="no_references")
    pictures = list(references)
    made = tokenize_all([hypotheses.get(picture, "") for picture in pictures])
    cut = iter(tokenize_all([caption for picture in pictures for caption in references[picture]]))
    known = [list(islice(cut, len(references[picture]))) for picture in pictures]
    counted = np.stack([bleu.counts(*each) for each in zip(made, known, strict=True)])
    per_picture = {
        "ROUGE-L": np.array([rouge_l(*each) for each in zip(made, known, strict=True)]),
        "CIDEr": cider(made, known),
        "CIDEr (first form)": cider(made, known, clipped=False),
    }
    values = {name: float(each.mean()) for name, each in per_picture.items()}
    for n, (corpus, each) in enumerate(zip(bleu.scores(counted.sum(axis=0)), bleu.scores(counted).T, strict=True)):
        values[f"BLEU-{n + 1}"], per_picture[f"BLEU-{n + 1}"] = float(corpus), each
    program = find_program() if with_meteor else "METEOR is left out: not asked for"
    left_out = {}
    if isinstance(program, Program):
        values["METEOR"], per_picture["METEOR"] = meteor(program, made, known)
    else:
        left_out["METEOR"] = program
    missing = [picture for picture in pictures if picture not in hypotheses]
    return CaptionScores(pictures, values, per_picture, counted, missing, left_out)
