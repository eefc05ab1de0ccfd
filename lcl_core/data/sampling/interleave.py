"""From an MMC4 document to a token sequence (lcl-spec sections 3 and 5).

Three steps: choose the images (rules 1-4), put each before or after its sentence (rules 5-6), write ids and cut
(rules 7-10). ``numerics="official"`` lets special tokens written in web text through as the authors do; "fixed"
keeps them text, so that each image kept has exactly one block of tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lcl_core.common.errors import UserError
from lcl_core.data.records import Document, ImageSegment, Segment, TextSegment, check_document
from lcl_core.data.tokenizer import Tokenizer

Numerics = Literal["fixed", "official"]


@dataclass(frozen=True, slots=True)
class Placement:
    """An image and the sentence that it belongs to."""

    sentence: int
    name: str


def render_mmc4(
    doc: dict[str, Any],
    tok: Tokenizer,
    num_image_tokens: int,
    context_length: int,
    similarity_threshold: float = 0.24,
    max_images: int = 6,
    min_images: int = 1,
    picks: Sequence[int] | None = None,
    before: Sequence[bool] | None = None,
    readable: Callable[[str], bool] = lambda name: True,
    numerics: Numerics = "fixed",
    image_first_probability: float = 0.5,
    draw: random.Random | None = None,
) -> tuple[list[int], list[str]] | None:
    """Lay an MMC4 document out as token ids.

    Args:
        picks: for each sentence with images, ascending, which of them to keep; None: drawn.
        before: for each image kept and readable, whether it stands before its sentence; None: drawn.
        readable: whether the image of that name can be read; others are left out.
        draw: source of the random choices; None: a fresh one.

    Returns:
        (ids without padding, names of the images in order), or None when the document is dropped.

    Raises:
        UserError: ``bad_document`` for a malformed document.
    """
    problem = check_document(doc)
    if problem is not None:
        raise UserError(problem, code="bad_document")
    draw = draw or random.Random()  # noqa: S311 - a data order, not a secret
    placements = choose_images(doc, similarity_threshold, max_images, draw, picks)
    placements = [placement for placement in placements if readable(placement.name)]
    document = place_images(
        doc["text_list"], placements, draw_image_sides(draw, image_first_probability, len(placements), before)
    )
    return encode_document(document, tok, num_image_tokens, context_length, min_images, numerics)


def draw_image_sides(
    draw: random.Random, probability: float, count: int, scripted: Sequence[bool] | None = None
) -> Sequence[bool]:
    """For each image at random: does it stand before its sentence?"""
    return scripted if scripted is not None else [draw.random() < probability for _ in range(count)]


def choose_images(
    doc: dict[str, Any], threshold: float, max_images: int, draw: random.Random, picks: Sequence[int] | None = None
) -> list[Placement]:
    """Rules 1-4: similar enough, one a sentence, the first ``max_images`` in document order."""
    groups = images_by_sentence(doc, threshold)
    if picks is None:
        picks = [draw.randrange(len(names)) if len(names) > 1 else 0 for names in groups.values()]
    chosen = [Placement(sentence, names[pick]) for (sentence, names), pick in zip(groups.items(), picks, strict=True)]
    return chosen[:max_images]


def images_by_sentence(doc: dict[str, Any], threshold: float) -> dict[int, list[str]]:
    """Names of the usable images of each sentence, sentences ascending, images as listed."""
    groups: dict[int, list[str]] = {}
    sentences = len(doc["text_list"])
    for image in sorted(doc["image_info"], key=lambda image: image["matched_text_index"]):
        index = image["matched_text_index"]
        if image["matched_sim"] >= threshold and 0 <= index < sentences:
            groups.setdefault(index, []).append(image["image_name"])
    return groups


def place_images(
    sentences: Sequence[str], placements: Iterable[Placement], before: Sequence[bool], start: int = 0
) -> Document:
    """Put each image before or after its sentence. ``start``: the number of the first sentence given."""
    placed = {
        placement.sentence: (ImageSegment(placement.name), first)
        for placement, first in zip(placements, before, strict=True)
    }
    segments: list[Segment] = []
    for number, sentence in enumerate(sentences, start):
        text = TextSegment(sentence)
        if number not in placed:
            segments.append(text)
        else:
            image, first = placed[number]
            segments += (image, text) if first else (text, image)
    return Document("", tuple(segments))


def encode_document(
    document: Document,
    tok: Tokenizer,
    num_image_tokens: int,
    context_length: int,
    min_images: int = 1,
    numerics: Numerics = "fixed",
) -> tuple[list[int], list[str]] | None:
    """Rules 7-10: ``sot``, texts and image blocks, ``eot``, cut to ``context_length``; None: too few images."""
    specials = tok.specials
    ids = encode_open_document(document, tok, num_image_tokens, context_length, numerics)  # the rest would be cut away
    ids.append(specials.eot)
    if len(ids) > context_length:
        ids = [*ids[: context_length - 1], specials.eot]
    starts = ids.count(specials.soi)
    if starts >= min_images and ids.count(specials.img) != num_image_tokens * starts:
        # the cut went through an image, which is dropped with all that follows
        ids = [*ids[: _last_index(ids, specials.soi)], specials.eot]
        starts -= 1
    if starts < min_images:
        return None
    return ids, list(document.images[:starts])


def encode_open_document(
    document: Document, tok: Tokenizer, num_image_tokens: int, enough: int, numerics: Numerics = "fixed"
) -> list[int]:
    """Rules 7 and 8: ``sot``, texts and image blocks, and no end; what comes after ``enough`` ids may be left out."""
    block = image_block(tok, num_image_tokens)
    ids = [tok.specials.sot]
    for segment in document.segments:
        ids += block if isinstance(segment, ImageSegment) else tok.encode(segment.text, numerics == "fixed")
        if len(ids) >= enough:
            break
    return ids


def image_block(tok: Tokenizer, num_image_tokens: int) -> list[int]:
    """``soi img*N eoi``: the tokens of an image in a sequence."""
    specials = tok.specials
    return [specials.soi, *[specials.img] * num_image_tokens, specials.eoi]


PAIR_SPECIALS = 3  # tokens of the pair wrapper that are neither text nor image: soi, eoi, and sot or eot


def render_pair(
    text: str,
    tok: Tokenizer,
    num_image_tokens: int,
    context_length: int,
    image_first: bool,
    numerics: Numerics = "fixed",
) -> list[int]:
    """The pair wrapper: ``image text eot`` (soi at position 0), or ``sot text image``.

    The text is cut to context - N - 4 ids (lcl-spec section 3). Raises: UserError where not even the image fits.
    """
    room = context_length - num_image_tokens - 4
    if room < 0:
        raise UserError(
            f"a context of {context_length} tokens cannot hold an image of {num_image_tokens}; raise context_length",
            code="bad_spec",
            field="model.context_length",
        )
    words = tok.encode(text, numerics == "fixed")[:room]
    block = image_block(tok, num_image_tokens)
    return [*block, *words, tok.specials.eot] if image_first else [tok.specials.sot, *words, *block]


def _last_index(ids: Sequence[int], token: int) -> int:
    return len(ids) - 1 - list(reversed(ids)).index(token)
