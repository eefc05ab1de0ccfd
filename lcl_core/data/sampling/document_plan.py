"""From a document to a token sequence: images are chosen, placed before or after their sentence, and ids written.

MMC4's rules (lcl-spec sections 3 and 5) choose the images of matched documents; sequences keep their order.
``numerics="official"`` lets special tokens written in web text through as the authors do; "fixed" keeps them text, so
that each image kept has exactly one block of tokens. A long document may be cut into chunks of a few images and their
text, differently in each epoch. The number of chunks of a document never changes, only the cuts move, so every
image occurs once per epoch and stream positions can be computed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.data.records import Document, ImageSegment, Segment, TextSegment, parse_segments
from lcl_core.data.tokenizer import Tokenizer
from lcl_core.specs.data import DataSpec

Numerics = Literal["fixed", "official"]


@dataclass(frozen=True, slots=True)
class Placement:
    """An image and the sentence that it belongs to."""

    sentence: int
    name: str


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
        cut = len(ids) - 1 - list(reversed(ids)).index(specials.soi)
        ids = [*ids[:cut], specials.eot]
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


def chunk_count(images: int, piece_images: int) -> int:
    """Chunks of a document with that many usable images; a chunk holds (1 + piece_images) / 2 on average."""
    return max(1, -(-2 * images // (piece_images + 1)))


def sample_images_per_chunk(draw: random.Random, images: int, piece_images: int) -> list[int]:
    """Images of each chunk: each 1 to ``piece_images``, together ``images`` (one chunk of 0 for none)."""
    chunks = chunk_count(images, piece_images)
    if images == 0:
        return [0]
    sizes = [1] * chunks
    for extra in draw.sample(range(chunks * (piece_images - 1)), images - chunks):
        sizes[extra // (piece_images - 1)] += 1
    return sizes


def chunk_placements(
    placements: Sequence[Placement], sizes: Sequence[int], chunk: int, sentences: int
) -> tuple[list[Placement], range]:
    """The images of a chunk and its sentences: from after the previous chunk's last image to its own last image.

    The last chunk includes the document's tail.
    """
    first = sum(sizes[:chunk])
    own = list(placements[first : first + sizes[chunk]])
    start = placements[first - 1].sentence + 1 if first else 0
    return own, range(start, sentences if chunk == len(sizes) - 1 else own[-1].sentence + 1)


def count_dropped_context(lengths: Sequence[int], context: int, room: int) -> int:
    """How many of the first ``context`` sentences to leave out so that the chunk's images fit.

    Args:
        lengths: tokens of each sentence (with its image block), up to and including the last image.
        context: sentences before the first image's.
        room: tokens available.
    """
    excess, dropped = sum(lengths) - room, 0
    while excess > 0 and dropped < context:
        excess -= lengths[dropped]
        dropped += 1
    return dropped


class DocumentChunks(Protocol):
    """The chunks of all documents of a corpus, numbered: item number → (document, chunk)."""

    def __len__(self) -> int: ...
    def __getitem__(self, item: int, /) -> tuple[int, int]: ...


class ChunkIndex:
    """``DocumentChunks`` from the usable images of each document; a malformed one has none, which is one chunk."""

    def __init__(self, images: Iterable[int], piece_images: int) -> None:
        self._ends = np.cumsum(np.fromiter((chunk_count(number, piece_images) for number in images), np.int64))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, item: int) -> tuple[int, int]:
        document = int(np.searchsorted(self._ends, item, side="right"))
        return document, item - (int(self._ends[document - 1]) if document else 0)


@dataclass(frozen=True, slots=True)
class DocumentChunk:
    """One chunk of a document.

    Attributes:
        number: of the chunk.
        max_images: of a chunk.
        room: tokens of a chunk between its first and last token.
        tokens: length of a text, or of an image (None), in tokens.
    """

    number: int
    max_images: int
    room: int
    tokens: Callable[[str | None], int]


@dataclass(frozen=True, slots=True)
class MatchedPlan:
    """Sentences and the images assigned to them, without two choices: which can be read, and on which side they stand.

    Attributes:
        start: number of the first sentence.
        concepts: of images by name, where they are known.
    """

    sentences: Sequence[str]
    placements: Sequence[Placement]
    start: int = 0
    concepts: Mapping[str, str] = field(default_factory=dict)

    @property
    def images(self) -> list[str]:
        """Names of the images to read."""
        return [placement.name for placement in self.placements]

    def to_document(self, readable: Container[str], draw: random.Random, image_first: float) -> Document:
        """The document with the readable images. ``image_first``: probability to stand before the sentence."""
        placements = [placement for placement in self.placements if placement.name in readable]
        before = [draw.random() < image_first for _ in placements]
        return place_images(self.sentences, placements, before, self.start)


@dataclass(frozen=True, slots=True)
class SequencePlan:
    """Texts and images in their original order. The concepts of images are not known."""

    segments: tuple[Segment, ...]
    concepts: Mapping[str, str] = field(default_factory=dict)

    @property
    def images(self) -> list[str]:
        return list(Document("", self.segments).images)

    def to_document(self, readable: Container[str], draw: random.Random, image_first: float) -> Document:
        kept = (each for each in self.segments if isinstance(each, TextSegment) or each.name in readable)
        return Document("", tuple(kept))


DocumentPlan = MatchedPlan | SequencePlan


def plan_document(
    document: dict[str, Any],
    data: DataSpec,
    draw: random.Random,
    chunk: DocumentChunk | None = None,
    captions: Mapping[Placement, str] | None = None,
) -> DocumentPlan | None:
    """Choose the images of a document, or of one chunk of it; None: none is usable.

    Args:
        draw: the document's own: the cuts and the choice among images of one sentence agree in all its chunks.
        captions: of matched images, which replace their sentences where these images are chosen.

    Raises: UserError ``bad_document`` for malformed segments.
    """
    if "segments" in document:
        return _plan_sequence(parse_segments(document), data, draw, chunk)
    # Rules 1-4: similar enough, one a sentence, the first `max_images` in document order
    chosen = [
        Placement(sentence, names[draw.randrange(len(names)) if len(names) > 1 else 0])
        for sentence, names in images_by_sentence(document, data.similarity_threshold).items()
    ]
    placements = chosen[: data.max_images]
    if not placements:
        return None
    sentences: list[str] = list(document["text_list"])
    for placement in placements:
        sentences[placement.sentence] = (captions or {}).get(placement, sentences[placement.sentence])
    if chunk is None:
        return MatchedPlan(sentences, placements)
    sizes = sample_images_per_chunk(draw, len(placements), chunk.max_images)
    if chunk.number >= len(sizes):  # an index of shards rounds similarities up: it may count an image too many
        return None
    own, span = chunk_placements(placements, sizes, chunk.number, len(sentences))
    with_image = {placement.sentence for placement in own}
    lengths = [
        chunk.tokens(sentences[number]) + (chunk.tokens(None) if number in with_image else 0)
        for number in range(span.start, own[-1].sentence + 1)
    ]
    start = span.start + count_dropped_context(lengths, own[0].sentence - span.start, chunk.room)
    return MatchedPlan(sentences[start : span.stop], own, start)


def count_usable_images(document: dict[str, Any], data: DataSpec) -> int:
    """Number of images that ``plan_document`` chooses from, at most ``data.max_images``.

    Raises: UserError ``bad_document``.
    """
    if "segments" in document:
        count = sum(isinstance(segment, ImageSegment) for segment in parse_segments(document))
    else:
        count = len(images_by_sentence(document, data.similarity_threshold))
    return min(count, data.max_images)


def _plan_sequence(
    segments: tuple[Segment, ...], data: DataSpec, draw: random.Random, chunk: DocumentChunk | None
) -> SequencePlan | None:
    kept: list[Segment] = []
    images = 0
    for segment in segments:
        images += isinstance(segment, ImageSegment)
        if isinstance(segment, TextSegment) or images <= data.max_images:
            kept.append(segment)
    images = min(images, data.max_images)
    if not images:
        return None
    if chunk is not None:
        kept = _chunk_segments(kept, sample_images_per_chunk(draw, images, chunk.max_images), chunk)
    return SequencePlan(tuple(kept))


def _chunk_segments(segments: list[Segment], sizes: Sequence[int], chunk: DocumentChunk) -> list[Segment]:
    """From after the previous chunk's last image to its own last image; the last chunk includes the tail."""
    images = [number for number, segment in enumerate(segments) if isinstance(segment, ImageSegment)]
    first = sum(sizes[: chunk.number])
    own = images[first : first + sizes[chunk.number]]
    start = images[first - 1] + 1 if first else 0
    end = len(segments) if chunk.number == len(sizes) - 1 else own[-1] + 1
    before = segments[start : own[-1] + 1]
    lengths = [chunk.tokens(segment.text if isinstance(segment, TextSegment) else None) for segment in before]
    return segments[start + count_dropped_context(lengths, own[0] - start, chunk.room) : end]
