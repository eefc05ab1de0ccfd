"""What is wrong with an item, and the list of all such items."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from lcl_core.errors import UserError

UNREADABLE = "unreadable image"
MISSING = "missing image"
TOO_LARGE = "image too large"
TOO_SMALL = "image too small"
BAD_PATH = "forbidden path"
BAD_LINE = "bad line"
EMPTY = "empty document"
NO_IMAGE = "no usable image"
NO_TEXT = "no text"
DUPLICATE_IMAGE = "duplicate image"
DUPLICATE_DOCUMENT = "duplicate document"
WORKER_DIED = "worker died"
# Codes of UserErrors by what they mean for a picture; any other code is an unreadable one.
_REASONS = {
    "bad_path": BAD_PATH,
    "file_missing": MISSING,
    "file_too_large": TOO_LARGE,
    "image_left_out": MISSING,
    "image_too_large": TOO_LARGE,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One item of the quarantine list.

    Attributes:
        file, line: where the item stands; line 0: the whole file, or not known.
        id: of the record, with ``#`` and the picture's name where it is about one.
        reason: one of a few phrases.
        detail: the particulars.
    """

    file: str
    line: int
    id: str
    reason: str
    detail: str = ""


def reason_of(error: UserError) -> str:
    """The reason under which a picture that raised ``error`` is counted."""
    return _REASONS.get(error.code, UNREADABLE)


class Quarantine:
    """``quarantine.jsonl``: one object {file, line, id, reason, detail} a line, at most ``most`` lines.

    Args:
        path: the file; an older one is replaced. None: nothing is written.
    """

    def __init__(self, path: Path | None, most: int) -> None:
        self.written = 0
        self.left_out = 0
        self._most = most
        self._file = None if path is None else path.open("w", encoding="utf-8", errors="backslashreplace")

    def add(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            if self._file is None or self.written >= self._most:
                self.left_out += 1
            else:
                self._file.write(json.dumps(asdict(finding), ensure_ascii=False) + "\n")
                self.written += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
