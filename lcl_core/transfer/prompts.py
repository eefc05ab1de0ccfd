"""Words for zero-shot classification: templates, and what classes are called."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lcl_core.errors import UserError
from lcl_core.extras import optional

PLAIN = ("{}", "a {}", "a picture of a {}", "a photo of a {}.", "a drawing of a {}.")
_SYNSET = re.compile(r"n\d{8}")
_SYNSETS = 1000


def templates_of(prompts: str) -> tuple[str, ...]:
    """Templates with ``{}`` in the class's place: ``plain`` or ``imagenet``.

    Raises:
        UserError: ``missing_extra`` when open_clip is asked for and not installed.
    """
    if prompts == "plain":
        return PLAIN
    return tuple(fill("{}") for fill in _open_clip().OPENAI_IMAGENET_TEMPLATES)


def words_for(labels: Sequence[str], names: str, given: Mapping[str, str], *, field: str) -> tuple[str, ...]:
    """What each label is called, in their order: as ``given``, else as ``names`` says.

    ``labels`` takes their own words, hyphens and underscores read as spaces; ``imagenet`` the names that open_clip
    holds for the thousand synsets in their order.

    Raises:
        UserError: ``class_unnamed`` if labels are no synsets of ImageNet, ``missing_extra`` without open_clip.
    """
    known = _synset_names(labels, field) if names == "imagenet" else map(_plain, labels)
    return tuple(given.get(label, word) for label, word in zip(labels, known, strict=True))


def _synset_names(labels: Sequence[str], field: str) -> Sequence[str]:
    if len(labels) != _SYNSETS or not all(map(_SYNSET.fullmatch, labels)):
        raise UserError(
            f"ImageNet's names are for its thousand synsets (n01440764 …); here are {len(labels)} classes, "
            f"{labels[0]!r} first; choose the label key that holds synsets, or give class_names",
            code="class_unnamed", field=field,
        )  # fmt: skip
    return _open_clip().IMAGENET_CLASSNAMES  # in the order of the synsets, as sorted labels are


def _plain(label: str) -> str:
    return re.sub(r"[_-]+", " ", label).strip() or label


def _open_clip() -> Any:
    return optional("open_clip.zero_shot_metadata", "ImageNet's templates and names", extra="interop")
