"""A packed batch: documents end to end without padding, and every index that the step needs.

All indices are computed on the host before the step, so that the step has no boolean masks and no shape waits for the
device.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lcl_core.common.errors import UserError
from lcl_core.model.configuration_lcl import LCLConfig
from lcl_core.ops.attention import BidirectionalLayout, CausalLayout, PadUnpadIndices, VarlenLayout
from lcl_core.ops.contrastive_loss import PairTerms

LAYOUTS: dict[str, type[VarlenLayout]] = {"causal": CausalLayout, "bidirectional": BidirectionalLayout}


class PackedTokens(NamedTuple):
    """Token rows end to end: [T] ids, positions that restart per row, row numbers, and the layout for attention."""

    ids: Tensor
    positions: Tensor
    document: Tensor
    layout: VarlenLayout

    @classmethod
    def pack_contexts(cls, rows: Tensor, config: LCLConfig) -> PackedTokens:
        """Each row of [n, L] as :func:`as_context_row` makes it, on the host; attention as in training."""
        if not rows.numel():
            _check_lengths([0] * len(rows), config.context_length)
        ends = rows == config.eot_token_id
        last = torch.where(ends.any(dim=1), ends.to(torch.uint8).argmax(dim=1), rows.shape[1] - 1)
        lengths = (last + 1).tolist()
        _check_lengths(lengths, config.context_length)
        contexts = rows.scatter(1, last[:, None], config.soi_token_id)
        positions = torch.arange(rows.shape[1]).expand_as(rows)
        kept = positions <= last[:, None]
        return cls(
            ids=contexts[kept],
            positions=positions[kept],
            document=torch.repeat_interleave(torch.arange(len(rows)), last + 1),
            layout=LAYOUTS[config.text_attention].from_lengths(lengths),
        )

    @classmethod
    def pack(cls, rows: Sequence[Tensor], config: LCLConfig) -> PackedTokens:
        """Pack long token rows, each at its own length, on the host; attention as the text tower was trained."""
        lengths = [len(row) for row in rows]
        _check_lengths(lengths, config.context_length)
        return cls(
            ids=torch.cat(list(rows)),
            positions=torch.cat([torch.arange(length) for length in lengths]),
            document=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
            layout=LAYOUTS[config.text_attention].from_lengths(lengths),
        )


@dataclass(frozen=True)
class PackedBatch:
    """Documents packed into one row of T tokens.

    Attributes:
        pixel_values: [n, 3, S, S], images in document order.
        token_ids: [T]; ``<img>`` placeholders included.
        positions: [T], restarting at 0 in every document.
        lengths: tokens of each document.
        layout: of the documents, for attention.
        image_slots: [n * N] flat positions of the placeholders, in image order; of a trimmed batch [k * N].
        pair_positions: [M] flat positions of the contrastive ``<soi>``.
        pair_images: [M] the image of each.
        pair_groups: [M] int64, equal for pairs with the same context: the same text, and the same images in it.
        label_positions: [K] flat positions whose output predicts the next token.
        labels: [K] that token.
        placed_images: [k] the images whose tokens the documents have; none: all.
        concepts: [n] int64, equal for images of one concept, 0 where it is not known. None: of no image.
        image_terms, caption_terms: [n, K] and [n, k] int64, as in ``PairTerms``. None: of no image.
    """

    pixel_values: Tensor
    token_ids: Tensor
    positions: Tensor
    lengths: tuple[int, ...]
    layout: VarlenLayout
    image_slots: Tensor
    pair_positions: Tensor
    pair_images: Tensor
    pair_groups: Tensor
    label_positions: Tensor
    labels: Tensor
    placed_images: Tensor | None = None
    concepts: Tensor | None = None
    image_terms: Tensor | None = None
    caption_terms: Tensor | None = None

    @property
    def pair_terms(self) -> PairTerms | None:
        """Those of the pairs, [M] rows."""
        if self.image_terms is None or self.caption_terms is None:
            return None
        return PairTerms(self.image_terms[self.pair_images], self.caption_terms[self.pair_images])

    @property
    def pair_identities(self) -> Tensor:
        """[M, 2] int64: two pairs have the same context, or images of one concept, if any column is equal.

        [M] where no concept is known.
        """
        if self.concepts is None:
            return self.pair_groups
        concepts = self.concepts[self.pair_images]
        return torch.stack((self.pair_groups, torch.where(concepts == 0, self.pair_groups, concepts)), dim=1)

    def to(self, device: torch.device) -> PackedBatch:
        """Copies from pinned memory run beside the host."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {
            name: part.to(device, non_blocking=True) for name, part in parts.items() if isinstance(part, Tensor)
        }
        moved |= {name: part.to(device) for name, part in parts.items() if isinstance(part, VarlenLayout)}
        return replace(self, **moved)

    def pin_memory(self) -> PackedBatch:
        """A copy whose tensors, those of layouts too, lie in pinned memory. Needs CUDA."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        pinned: dict[str, Any] = {name: part.pin_memory() for name, part in parts.items() if isinstance(part, Tensor)}
        pinned |= {name: _pin_layout(part) for name, part in parts.items() if isinstance(part, VarlenLayout)}
        return replace(self, **pinned)

    @classmethod
    def pack(cls, documents: Sequence[Tensor], pixel_values: Tensor, config: LCLConfig) -> PackedBatch:
        """Pack token id rows (long, each at its own length) and their images."""
        tokens = PackedTokens.pack(documents, config)
        starts = torch.nonzero(tokens.ids == config.soi_token_id).flatten()
        position = tokens.positions[starts]
        has_context = position > 0  # and, in ``fixed``, not right behind ``<sot>``
        if config.numerics == "fixed":
            only_sot = (position == 1) & (tokens.ids[(starts - 1).clamp(min=0)] == config.sot_token_id)
            has_context &= ~only_sot
        pairs = torch.nonzero(has_context).flatten()
        label_positions = find_label_positions(tokens, config)
        hashes, offsets = [], starts.tolist()  # of what precedes each pair's ``<soi>``: ids, and every eighth pixel
        for image in pairs.tolist():
            end = offsets[image]
            begin = end - int(tokens.positions[end])
            seen = [pixel_values[n, :, ::8, ::8] for n in range(bisect_left(offsets, begin), image)]
            hashes.append(hash_tensors(tokens.ids[begin:end], *seen))
        return cls(
            pixel_values=pixel_values,
            token_ids=tokens.ids,
            positions=tokens.positions,
            lengths=tuple(len(document) for document in documents),
            layout=tokens.layout,
            image_slots=_image_slots(tokens, starts, len(pixel_values), config),
            pair_positions=starts[pairs],
            pair_images=pairs,
            pair_groups=torch.tensor(hashes, dtype=torch.int64),
            label_positions=label_positions,
            labels=tokens.ids[label_positions + 1],
        )

    def trim(self) -> PackedBatch:
        """Cut each document after its last position that has a label or is a contrastive ``<soi>``.

        Under causal attention no loss reads what follows: mostly the tokens of an image at a document's end, which
        keeps its latent. A batch on the host, of documents whose placeholders match their images.
        """
        document = torch.repeat_interleave(torch.arange(len(self.lengths)), torch.tensor(self.lengths))
        read = torch.cat((self.label_positions, self.pair_positions))
        ends = torch.zeros(len(self.lengths), dtype=torch.long)
        ends.scatter_reduce_(0, document[read], self.positions[read], "amax")
        kept = self.positions <= ends[document]
        moved = kept.cumsum(0) - 1
        slots = self.image_slots.view(len(self.pixel_values), -1)
        placed = torch.nonzero(kept[slots[:, 0]]).flatten()
        lengths = (ends + 1).tolist()
        return replace(
            self,
            token_ids=self.token_ids[kept],
            positions=self.positions[kept],
            lengths=tuple(lengths),
            layout=self.layout.from_lengths(lengths),
            image_slots=moved[slots[placed].flatten()],
            pair_positions=moved[self.pair_positions],
            label_positions=moved[self.label_positions],
            placed_images=placed,
        )

    @classmethod
    def from_padded(cls, input_ids: Tensor, pixel_values: Tensor, config: LCLConfig) -> PackedBatch:
        """Pack right-padded rows [B, L]; trailing zeros are padding."""
        lengths = row_lengths(input_ids).tolist()
        rows = [row[:length] for row, length in zip(input_ids.cpu(), lengths, strict=True)]
        return cls.pack(rows, pixel_values, config).to(pixel_values.device)


def _pin_layout(layout: VarlenLayout) -> VarlenLayout:
    padding = layout.padding
    if padding is not None:
        padding = PadUnpadIndices(*(part.pin_memory() for part in (padding.index, padding.inverse, padding.keep)))
    lengths = tuple(part if part is None else part.pin_memory() for part in layout.lengths)
    return replace(layout, padding=padding, cu_seqlens=layout.cu_seqlens.pin_memory(), lengths=lengths)


def as_context_row(row: Tensor, config: LCLConfig) -> Tensor:
    """``sot text eot …`` → ``sot text <soi>``, as if an image came next; a copy.

    What follows the first ``eot`` is dropped; of a row without one the last token becomes ``<soi>``.
    """
    ends = torch.nonzero(row == config.eot_token_id).flatten()
    end = int(ends[0]) if len(ends) else len(row) - 1
    context = row[: end + 1].clone()
    context[end] = config.soi_token_id
    return context


def row_lengths(input_ids: Tensor) -> Tensor:
    """Length of each right-padded row [B, L] → [B]: a zero with a real token to its right is a token itself."""
    position = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
    return ((input_ids != 0) * position).amax(dim=1)


def _check_lengths(lengths: list[int], context_length: int) -> None:
    if not lengths or min(lengths) < 1:
        raise UserError("a batch needs at least one document, and no document may be empty", code="bad_document")
    if max(lengths) > context_length:
        row = lengths.index(max(lengths))
        raise UserError(
            f"document {row} has {max(lengths)} tokens, the position table {context_length}; "
            "cut it or raise context_length",
            code="too_large",
        )


def _image_slots(tokens: PackedTokens, starts: Tensor, images: int, config: LCLConfig) -> Tensor:
    per_image = config.num_image_tokens
    slots = torch.nonzero(tokens.ids == config.img_token_id).flatten()
    if len(slots) != images * per_image:
        raise UserError(
            f"{images} images need {images * per_image} placeholders, the documents hold {len(slots)}",
            code="bad_document",
        )
    if config.numerics == "fixed":
        _check_each_image(tokens, starts, slots.view(images, per_image))
    return slots


def _check_each_image(tokens: PackedTokens, starts: Tensor, slots: Tensor) -> None:
    """Each ``<soi>`` must be followed at once by its image's placeholders, or patches land in other documents."""
    documents, per_image = int(tokens.document[-1]) + 1, slots.shape[1]
    present = torch.bincount(tokens.document[slots.flatten()], minlength=documents)
    required = torch.bincount(tokens.document[starts], minlength=documents) * per_image
    if wrong := torch.nonzero(present != required).flatten().tolist():
        first = wrong[0]
        raise UserError(
            f"document {first} holds {present[first]} placeholders, its image starts need {required[first]}",
            code="bad_document",
        )
    misplaced = (slots != starts[:, None] + 1 + torch.arange(per_image)).any(dim=1)
    if wrong := torch.nonzero(misplaced).flatten().tolist():
        raise UserError(
            f"document {tokens.document[starts[wrong[0]]]}: an image start is not followed by its placeholders",
            code="bad_document",
        )


def hash_tensors(*tensors: Tensor) -> int:
    """A signed 64-bit hash of the tensors' values."""
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return int.from_bytes(digest.digest(), "little", signed=True)


def find_label_positions(tokens: PackedTokens, config: LCLConfig) -> Tensor:
    """Positions whose next token is in the same document and is neither a placeholder nor ``<eoi>``.

    ``official`` also never predicts id 0, which the authors take for padding.
    """
    following = tokens.ids[1:]
    kept = tokens.document[1:] == tokens.document[:-1]
    kept &= (following != config.img_token_id) & (following != config.eoi_token_id)
    if config.numerics == "official":
        kept &= following != 0
    return torch.nonzero(kept).flatten()
