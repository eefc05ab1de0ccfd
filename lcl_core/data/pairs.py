"""Captioned images of a corpus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, overload

from lcl_core.data.lines import Concatenation

DEFAULT_SPLIT = "train"
_PAIR_FIELDS = frozenset(("image", "captions", "labels", "split", "source"))


@dataclass(frozen=True, slots=True)
class Pair:
    """A captioned image.

    Attributes:
        image: name under ``images/``.
        captions: alternative texts for it, maybe none.
        labels: classes by kind, such as ``{"subgroup": "bugs"}``.
        split: ``train`` unless the line says otherwise.
        source: where it came from, maybe empty.
        extra: the line's other fields.
    """

    image: str
    captions: tuple[str, ...]
    labels: dict[str, str]
    split: str
    source: str
    extra: dict[str, Any] = field(default_factory=dict)


class Pairs(Protocol):
    """Captioned images as a corpus gives them, parsed as they are asked for."""

    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int, /) -> Pair: ...
    @overload
    def __getitem__(self, index: slice, /) -> Sequence[Pair]: ...
    def __iter__(self) -> Iterator[Pair]: ...

    def place_of(self, index: int) -> str:
        """Where it stands, for messages and ids."""


class PairList(Sequence[Pair]):
    """Chosen pair lines, parsed as they are asked for."""

    def __init__(self, lines: Concatenation, indices: Sequence[int]) -> None:
        self._lines = lines
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Pair]: ...

    def __getitem__(self, index: int | slice) -> Pair | Sequence[Pair]:
        if isinstance(index, slice):
            return PairList(self._lines, self._indices[index])
        return _to_pair(self._lines[self._indices[index]])

    def choose(self, indices: Sequence[int]) -> PairList:
        """Those at ``indices``, in that order."""
        return PairList(self._lines, [self._indices[index] for index in indices])

    def place_of(self, index: int) -> str:
        """``file:line`` of a pair, for messages and ids."""
        return self._lines.place_of(self._indices[index])


def _to_pair(line: dict[str, Any]) -> Pair:
    return Pair(
        image=line["image"],
        captions=tuple(line["captions"]),
        labels=line.get("labels", {}),
        split=line.get("split", DEFAULT_SPLIT),
        source=line.get("source", ""),
        extra={key: value for key, value in line.items() if key not in _PAIR_FIELDS},
    )
