"""ImageNet's classes: what a synset is called, and which one each validation image shows.

    LOC_synset_mapping.txt, synset_words.txt    n01440764 tench, Tinca tinca
    synsets.txt                                 n01440764
    (with ILSVRC's numbers)                     449 n01440764 tench, Tinca tinca
    meta.mat (devkit)                           the same, for MATLAB

    ILSVRC2012_validation_ground_truth.txt      490                 ILSVRC's number of the image of that line
    imagenet_2012_validation_synset_labels.txt  n01751748           likewise, by name
    val.txt                                     ILSVRC2012_val_00000001.JPEG 65     place in the list of synsets, from 0
    LOC_val_solution.csv                        ILSVRC2012_val_00048981,n03995372 85 1 499 272
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from lcl_core.data.record import BadItem
from lcl_core.errors import UserError

SYNSET_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "synset_mapping.txt", "synsets.txt", "meta.mat")
TRUTH_FILES = (
    "ILSVRC2012_validation_ground_truth.txt",
    "imagenet_2012_validation_synset_labels.txt",
    "LOC_val_solution.csv",
    "val.txt",
)
MAX_BYTES = 64 << 20
_SYNSET = re.compile(r"(?:(\d{1,6})\s+)?(n\d{8})(?:[\s:,]+(\S.*))?")
_NUMBERED = re.compile(r".*_(\d{8})")


@dataclass(frozen=True)
class Synsets:
    """What is known of classes.

    Attributes:
        names: words by synset; empty where no file tells them.
        listed: synsets in the order of the file.
        numbers: synset by ILSVRC's number, where the file tells it.
        problems: lines that could not be read.
    """

    names: dict[str, str] = field(default_factory=dict)
    listed: tuple[str, ...] = ()
    numbers: dict[int, str] = field(default_factory=dict)
    problems: tuple[BadItem, ...] = ()

    def labels(self, folder: str) -> dict[str, str]:
        """Labels of the images of a class folder: ``class``, and for a known synset ``wnid``, too."""
        name = self.names.get(folder)
        return {"class": folder} if name is None else {"class": name, "wnid": folder}


def read_synsets(path: Path | None) -> Synsets:
    """Read a map of synsets; words that two synsets share get the synset added. Raises: UserError."""
    if path is None:
        return Synsets()
    rows, problems = _from_matlab(path) if path.suffix.lower() == ".mat" else _from_text(path)
    shared = Counter(words for _, _, words in rows if words)
    return Synsets(
        names={wnid: f"{words} ({wnid})" if shared[words] > 1 else words for _, wnid, words in rows if words},
        listed=tuple(wnid for _, wnid, _ in rows),
        numbers={number: wnid for number, wnid, _ in rows if number},
        problems=tuple(problems),
    )


def read_text(path: Path) -> list[str]:
    """Lines of a side file. Raises: UserError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"the file cannot be read: {error.strerror}", code="file_unreadable", file=path) from error
    if len(data) > MAX_BYTES:
        raise UserError(f"the file is larger than {MAX_BYTES:,} bytes", code="file_too_large", file=path)
    return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").splitlines()


def _from_text(path: Path) -> tuple[list[tuple[int, str, str]], list[BadItem]]:
    rows, problems = [], []
    seen: set[str] = set()
    for line, text in enumerate(read_text(path), start=1):
        found = _SYNSET.fullmatch(text.strip()[:2000])
        if not text.strip():
            continue
        if found is None or found[2] in seen:
            problem = "a synset such as n01440764 is expected" if found is None else f"{found[2]} occurs twice"
            problems.append(BadItem(path.name, line, "bad synset line", f"{problem}: {text[:100]!r}"))
            continue
        seen.add(found[2])
        rows.append((int(found[1] or 0), found[2], (found[3] or "").strip()))
    return rows, problems


def _from_matlab(path: Path) -> tuple[list[tuple[int, str, str]], list[BadItem]]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        message = 'reading meta.mat needs scipy; install it with pip install "lcl[data]"'
        raise UserError(message, code="missing_extra", file=path) from error
    try:
        synsets = loadmat(path, squeeze_me=True, variable_names=["synsets"])["synsets"]
        fields = zip(synsets["ILSVRC2012_ID"], synsets["WNID"], synsets["words"], strict=True)
        rows: list[tuple[int, str, str]] = [(int(number), str(wnid), str(words)) for number, wnid, words in fields]
    except Exception as error:  # the parser meets malformed bytes with any exception type
        message = f"the file is not the devkit's meta.mat ({type(error).__name__}: {str(error)[:200]})"
        raise UserError(message, code="file_unreadable", file=path) from error
    # the synsets above those of the challenge have numbers from 1001 on
    return [row for row in rows if 1 <= row[0] <= 1000], []


class GroundTruth:
    """The class folder of each image of a flat folder.

    Args:
        path: one of the files above.
        synsets: to look numbers up.

    Attributes:
        problems: lines that could not be read.

    Raises: UserError when the file cannot be read, or gives numbers that ``synsets`` does not explain.
    """

    def __init__(self, path: Path, synsets: Synsets) -> None:
        self.path = path
        self._synsets = synsets
        self._by_name: dict[str, str] = {}
        self._by_number: dict[int, str] = {}
        self.problems: list[BadItem] = []
        for line, text in enumerate(read_text(path), start=1):
            if text.strip() and text.strip() != "ImageId,PredictionString":
                self._add(line, text.strip()[:2000])

    def of(self, name: str) -> str | None:
        """The class folder's name for an image such as ``ILSVRC2012_val_00000001.JPEG``; None: not told."""
        stem = name.rpartition(".")[0]
        found = _NUMBERED.fullmatch(stem)
        return self._by_name.get(stem) or (self._by_number.get(int(found[1])) if found else None)

    def _add(self, line: int, text: str) -> None:
        name, _, rest = text.replace(",", " ").partition(" ")
        value = self._class(rest.split()[0], from_zero=True) if rest.strip() else self._class(name, from_zero=False)
        if value is None:
            self.problems.append(BadItem(self.path.name, line, "bad ground truth line", text[:100]))
        elif rest.strip():
            self._by_name[name.rpartition(".")[0] or name] = value
        else:
            self._by_number[line] = value

    def _class(self, text: str, *, from_zero: bool) -> str | None:
        """A number beside a name counts the listed synsets from 0; a number alone is ILSVRC's own."""
        if not (text.isascii() and text.isdigit() and len(text) < 7):
            return text if re.fullmatch(r"n\d{8}", text) else None
        if from_zero:
            self._need(bool(self._synsets.listed), "a list of synsets, such as LOC_synset_mapping.txt")
            return next(iter(self._synsets.listed[int(text) : int(text) + 1]), None)
        self._need(bool(self._synsets.numbers), "the devkit's meta.mat, or lines such as '449 n01440764 tench'")
        return self._synsets.numbers.get(int(text))

    def _need(self, there: bool, what: str) -> None:
        if not there:
            message = f"it tells classes by number; to know which is meant, give {what} as option 'synsets'"
            raise UserError(message, code="bad_option", field="synsets", file=self.path)


def find_side_file(root: Path, names: tuple[str, ...]) -> Path | None:
    """The first of ``names`` in the folder or one folder down (``data`` of the devkit)."""
    for name in names:
        for path in (root / name, *sorted(root.glob(f"*/{name}")), *sorted(root.glob(f"*/data/{name}"))):
            if path.is_file():
                return path
    return None
