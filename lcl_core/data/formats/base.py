"""What every format reader shares: its interface, its options, and the files of a corpus.

A reader walks a foreign format once, in order, and yields records and bad items. Options are a strict model each, and
their errors name the option.
"""

from __future__ import annotations

import os
import re
import stat
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, StrictStr, ValidationError

from lcl_core.common.errors import UserError
from lcl_core.data.corpus.file_store import safe_name
from lcl_core.data.jsonl import BadValue
from lcl_core.data.records import DEFAULT_SPLIT, BadItem, Record
from lcl_core.parts import Section
from lcl_core.specs.base import Spec


def to_printable(name: str) -> str:
    """A name from a file system or an archive as text that any program takes: no control characters, no stray bytes."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name)


_TARS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")  # packed ones are found, to be reported


def is_tar(name: str) -> bool:
    return name.lower().endswith(_TARS)


def list_folder(folder: Path) -> list[tuple[str, bool]]:
    """Names in a folder except hidden ones, sorted, and whether each is a folder. Raises: OSError."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                found.append((entry.name, entry.is_dir()))
            except OSError:  # a loop of links
                found.append((entry.name, False))
    return sorted(each for each in found if not each[0].startswith("."))


MAX_NAME_BYTES = 1024
IMAGE_EXTENSIONS = frozenset(  # of the formats that are decoded
    ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm", "avif")
)


def is_image_file(name: str) -> bool:
    """By its name, which is not that of a hidden file."""
    return not name.startswith(".") and "." in name and name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS


def check_image_name(name: str) -> str:
    """``name`` if it is a plain relative path. Raises: ValueError."""
    if not name or len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"the image's name must have 1 to {MAX_NAME_BYTES:,} bytes")
    try:
        return safe_name(name)
    except UserError as error:
        raise ValueError(f"the image's name is unsafe: {error.message}") from error


ImageName = Annotated[StrictStr, AfterValidator(check_image_name)]
Item = TypeVar("Item", bound=BaseModel)


def validate_item(model: type[Item], value: Any) -> Item:
    """One object of a foreign file. Raises: BadValue naming the field and the problem."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise BadValue(f"{field}: {first['msg']}".removeprefix(": ").replace("Value error, ", "")) from None


class ReaderOptions(Spec):
    """Options of a reader; unknown ones are refused. Most readers derive their own."""


OptionsModel = TypeVar("OptionsModel", bound=ReaderOptions)


def parse_options(model: type[OptionsModel], options: Mapping[str, Any], reader: str) -> OptionsModel:
    """Check options against a reader's options. Raises: UserError ``bad_option`` whose field is the option."""
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "options"
    if first["type"] == "extra_forbidden":
        known = ", ".join(model.model_fields) or "none"
        problem = f"the {reader} reader has no option {field!r}; it knows {known}"
    else:
        problem = f"option {field!r} of the {reader} reader: {first['msg'].removeprefix('Value error, ')}"
    raise UserError(problem, code="bad_option", field=field)


def option_paths(options: ReaderOptions) -> list[tuple[str, Path]]:
    """Options that name files or folders, and what they name."""
    return [(name, value) for name, value in options if isinstance(value, Path)]


def display_name(path: Path, root: Path) -> str:
    """A file's name for messages and ids: relative to the corpus, whatever bytes it has."""
    inside = path.name if path == root else os.path.relpath(path, root)
    return to_printable(inside.replace(os.sep, "/"))


SPLIT_WORDS = {  # of names of files and folders
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def split_from_name(name: str) -> str:
    """Split of a file by its name, or else by those of its folders, the innermost first; else "train".

    Words end at ``.``, ``_`` and ``-``; digits at their end do not count (``val2017``). Of several the last counts:
    names go from the whole to its part (``test_bench-train-0.parquet``).

    Args:
        name: relative to the corpus, as of :func:`display_name`; folders above the corpus say nothing of it.
    """
    for part in reversed(name.lower().split("/")):
        for word in reversed(re.split(r"[._-]", part)):
            if (split := SPLIT_WORDS.get(re.sub(r"\d+$", "", word))) is not None:
                return split
    return DEFAULT_SPLIT


def distinct_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of classes by number; one that two numbers share has its number added. Empty ones stay."""
    count = Counter(names)
    return tuple(f"{name} ({number})" if name and count[name] > 1 else name for number, name in enumerate(names))


def corpus_files(
    root: Path, matches: Callable[[str], bool], order: Callable[[Path], Any] = str, outside: Path | None = None
) -> Iterator[Path | BadItem]:
    """Files that make a corpus: ``root`` itself, or those directly in it, or else one folder down.

    A matching file that is not an ordinary one, or a link out of the folder, is a BadItem.

    Args:
        matches: selects files by name.
        order: sort key.
        outside: a folder whose files are not meant.
    """
    return (check_corpus_file(path, root) for path in corpus_paths(root, matches, order, outside))


def corpus_paths(
    root: Path, matches: Callable[[str], bool], order: Callable[[Path], Any] = str, outside: Path | None = None
) -> list[Path]:
    """Their paths, whatever is there."""
    if not root.is_dir():
        return [root]
    return [path for path in sorted(_matching_files(root, matches), key=order) if path.parent != outside]


def check_corpus_file(path: Path, root: Path) -> Path | BadItem:
    """The path of a corpus's file; a BadItem if it may not or cannot be read."""
    if path == root:
        return root if root.is_file() else BadItem(root.name, 0, "unreadable file", "it is not an ordinary file")
    real, ordinary = resolve_file(path)
    if not real.is_relative_to(root.resolve()):
        return BadItem(display_name(path, root), 0, "unsafe link", "the link leads out of the folder")
    if not ordinary:
        return BadItem(display_name(path, root), 0, "unreadable file", "it is not an ordinary file")
    return path


def check_side_file(path: Path, root: Path) -> Path | BadItem | None:
    """A file beside those of a corpus, such as the table of a tar; None: there is none.

    It may lead no further than the corpus's own files.

    Args:
        root: the corpus; of a single file, what lies in its folder counts.
    """
    if os.path.isdir(path) or not os.path.lexists(path):
        return None
    return check_corpus_file(path, root if root.is_dir() else root.parent)


def link_error(path: Path, problem: str, option: str) -> UserError:
    """The refusal of a file or folder that is found by its name, where ``option`` can name another."""
    message = f"{problem}; move what is meant into the corpus, or name it with option {option!r}"
    return UserError(message, code="bad_path", field=option, file=path)


def resolve_file(path: Path) -> tuple[Path, bool]:
    """Where links lead to from ``path``, and whether an ordinary file is there."""
    try:
        real = path.resolve()
        return real, real.is_file()
    except (OSError, RuntimeError):  # a loop of links
        return path, False


def contains_files(root: Path, matches: Callable[[str], bool]) -> bool:
    """Is ``root`` such a file, or does it hold one?"""
    return bool(_matching_files(root, matches)) if root.is_dir() else matches(root.name)


def _matching_files(root: Path, matches: Callable[[str], bool]) -> list[Path]:
    above = [path for path in root.glob("*") if matches(path.name) and not path.is_dir()]
    return above or [path for path in root.glob("*/*") if matches(path.name) and not path.is_dir()]


Options = TypeVar("Options", bound=ReaderOptions)


class FormatReader(ABC, Generic[Options]):
    """One corpus in one format. Made by :func:`lcl_core.data.formats.open_reader`.

    Path and options are what is sent to another process; what a reader has found out stays where it is.

    Attributes:
        format: its name in ``FORMATS``.
        options_type: the model of its options.
        path: where the corpus lies: a file or a folder.
    """

    format: ClassVar[str]
    options_type: ClassVar[type[ReaderOptions]] = ReaderOptions

    def __init__(self, path: Path, options: Options) -> None:
        self.path = path
        self.options = options

    def __reduce__(self) -> tuple[Any, tuple[Path, Options]]:
        return type(self), (self.path, self.options)

    def paths_beside(self) -> list[tuple[str, Path]]:
        """Files and folders that are read beside ``path``, each with the option that names it or could."""
        return option_paths(self.options)

    @classmethod
    @abstractmethod
    def sniff(cls, path: Path) -> bool:
        """Does an existing file or folder look like this format? Cheap; OSError and UserError count as no."""

    @abstractmethod
    def records(self) -> Iterator[Record | BadItem]:
        """Walk the corpus from its start, in the same order each time, with bounded memory.

        What cannot be read is a BadItem, and the walk goes on. An image that is missing or too large does not
        make its record bad: the image's ``load`` raises UserError, and who reads the pixels counts it.

        Raises: UserError when the corpus as a whole cannot be read, or an option does not fit it.
        """

    def sections(self) -> list[Section]:
        """What can be read by itself; see :class:`lcl_core.parts.PartSource`. Here: the whole corpus."""
        return [Section(WHOLE, file_stamp(self.path))]

    def read_section(self, key: str, start: int = 0) -> Iterator[Record | BadItem]:
        """Items of a section from number ``start`` on. The sections, one after the other, are ``records``."""
        return islice(self._section(key), start, None)

    def count_section(self, key: str) -> int:
        """How many items a section has. No image is read."""
        return sum(1 for _ in self._section(key))

    def _section(self, key: str) -> Iterator[Record | BadItem]:
        return self.records()


class FilesReader(FormatReader[Options]):
    """A corpus of files that are read one after the other; each is a section.

    What precedes the files, such as problems of side files, is a section too.

    Attributes:
        shared_files: names of files that say something of several, beside them or one folder up.
        is_partial: the folder holds but some of the corpus's files.
    """

    shared_files: ClassVar[tuple[str, ...]] = ()
    is_partial = False

    @property
    def folder(self) -> Path:
        """Where the files lie: the corpus, or of a single file its folder."""
        return self.path if self.path.is_dir() else self.path.parent

    @abstractmethod
    def paths(self) -> list[Path]:
        """The files, in order, whatever is there; see :func:`corpus_paths`."""

    @abstractmethod
    def read_file(self, file: Path) -> Iterator[Record | BadItem]:
        """The items of one of them, which is an ordinary file."""

    def problems(self) -> Iterator[BadItem]:
        """What cannot be read apart from the files."""
        return iter(())

    def records(self) -> Iterator[Record | BadItem]:
        yield from self.problems()
        for path in self.paths():
            yield from self._checked(path)

    def sections(self) -> list[Section]:
        return [Section(WHOLE), *(Section(self.key(path), file_stamp(path)) for path in self.paths())]

    def _section(self, key: str) -> Iterator[Record | BadItem]:
        if key == WHOLE:
            return self.problems()
        return self._checked(self.path / key if self.path.is_dir() else self.path)

    def _checked(self, path: Path) -> Iterator[Record | BadItem]:
        file = check_corpus_file(path, self.path)
        return iter((file,)) if isinstance(file, BadItem) else self.read_file(file)

    def key(self, path: Path) -> str:
        """Name of a file: its path below the corpus."""
        return path.name if path == self.path else os.path.relpath(path, self.path)


WHOLE = ""  # key of the section that is a whole corpus, or of what precedes its files


def file_stamp(path: Path) -> str:
    """Size and time of a file; empty for a folder, and for what is not there."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return "" if stat.S_ISDIR(status.st_mode) else f"{status.st_size} {status.st_mtime_ns}"
