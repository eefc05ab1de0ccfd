"""What every reader is: a foreign format walked once, in order, as records and bad items."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from lcl_core.data.readers.options import ReaderOptions
from lcl_core.data.record import BadItem, Record

O = TypeVar("O", bound=ReaderOptions)  # noqa: E741 - the usual letter of a type variable


class Reader(ABC, Generic[O]):
    """One corpus in one format. Made by :func:`lcl_core.data.readers.open_reader`.

    A reader holds paths and options only, so that it can be sent to another process.

    Attributes:
        format: its name in ``FORMATS``.
        options_type: the model of its options.
        path: where the corpus lies: a file or a folder.
    """

    format: ClassVar[str]
    options_type: ClassVar[type[ReaderOptions]] = ReaderOptions

    def __init__(self, path: Path, options: O) -> None:
        self.path = path
        self.options = options

    @classmethod
    @abstractmethod
    def sniff(cls, path: Path) -> bool:
        """Does an existing file or folder look like this format? Cheap; OSError and UserError count as no."""

    @abstractmethod
    def records(self) -> Iterator[Record | BadItem]:
        """Walk the corpus from its start, in the same order each time, with bounded memory.

        What cannot be read is a BadItem, and the walk goes on. A picture that is missing or too large does not
        make its record bad: the picture's ``load`` raises UserError, and who reads the pixels counts it.

        Raises: UserError when the corpus as a whole cannot be read, or an option does not fit it.
        """
