"""Images in one folder for each class, and ImageNet as it is distributed.

    ROOT/CLASS/**/IMAGE               class folders; the split is "train"
    ROOT/{train,val,test}/CLASS/…     the same for each split
    ROOT/val/IMAGE                    flat, with a file of ground truth; without one, images have no label
    ROOT/ILSVRC/Data/CLS-LOC/train/…  Kaggle's layout

Labels are ``class``, the folder's name or the words of its synset, and then ``wnid``, the synset. Files of synsets:

    LOC_synset_mapping.txt, synset_words.txt    n01440764 tench, Tinca tinca
    synsets.txt                                 n01440764
    (with ILSVRC's numbers)                     449 n01440764 tench, Tinca tinca
    meta.mat (devkit)                           the same, for MATLAB

Files of ground truth:

    ILSVRC2012_validation_ground_truth.txt      490                 ILSVRC's number of the image of that line
    imagenet_2012_validation_synset_labels.txt  n01751748           likewise, by name
    val.txt                                     ILSVRC2012_val_00000001.JPEG 65     index in the list of synsets, from 0
    LOC_val_solution.csv                        ILSVRC2012_val_00048981,n03995372 85 1 499 272
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from lcl_core.common.errors import UserError
from lcl_core.common.names import replace_surrogates
from lcl_core.data.formats.base import (
    SPLIT_WORDS,
    FormatReader,
    ReaderOptions,
    check_side_file,
    display_name,
    link_error,
    resolve_file,
)
from lcl_core.data.formats.image_index import IMAGE_EXTENSIONS
from lcl_core.data.formats.image_lookup import read_folder_image
from lcl_core.data.formats.pair_folders import sniff_pairs
from lcl_core.data.records import BadItem, CaptionedImage, Record, RecordImage

SYNSET_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "synset_mapping.txt", "synsets.txt", "meta.mat")
TRUTH_FILES = (
    "ILSVRC2012_validation_ground_truth.txt",
    "imagenet_2012_validation_synset_labels.txt",
    "LOC_val_solution.csv",
    "val.txt",
)
MAX_SIDE_FILE_BYTES = 64 << 20
_SYNSET = re.compile(r"(?:(\d{1,6})\s+)?(n\d{8})(?:[\s:,]+(\S.*))?")
_NUMBERED_NAME = re.compile(r".*_(\d{8})")


@dataclass(frozen=True)
class Synsets:
    """What is known of classes.

    Attributes:
        names: words by synset; empty where no file has them.
        listed: synsets in the order of the file.
        numbers: synset by ILSVRC's number, where the file has it.
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


def read_text_lines(path: Path) -> list[str]:
    """Lines of a side file. Raises: UserError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIDE_FILE_BYTES + 1)
    except OSError as error:
        raise UserError(f"the file cannot be read: {error.strerror}", code="file_unreadable", file=path) from error
    if len(data) > MAX_SIDE_FILE_BYTES:
        raise UserError(f"the file is larger than {MAX_SIDE_FILE_BYTES:,} bytes", code="file_too_large", file=path)
    return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").splitlines()


def _from_text(path: Path) -> tuple[list[tuple[int, str, str]], list[BadItem]]:
    rows, problems = [], []
    seen: set[str] = set()
    for line, text in enumerate(read_text_lines(path), start=1):
        match = _SYNSET.fullmatch(text.strip()[:2000])
        if not text.strip():
            continue
        if match is None or match[2] in seen:
            problem = "a synset such as n01440764 is expected" if match is None else f"{match[2]} occurs twice"
            problems.append(BadItem(path.name, line, "bad synset line", f"{problem}: {text[:100]!r}"))
            continue
        seen.add(match[2])
        rows.append((int(match[1] or 0), match[2], (match[3] or "").strip()))
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
        for line, text in enumerate(read_text_lines(path), start=1):
            if text.strip() and text.strip() != "ImageId,PredictionString":
                self._add(line, text.strip()[:2000])

    def of(self, name: str) -> str | None:
        """The class folder's name for an image such as ``ILSVRC2012_val_00000001.JPEG``; None: unknown."""
        stem = name.rpartition(".")[0]
        match = _NUMBERED_NAME.fullmatch(stem)
        return self._by_name.get(stem) or (self._by_number.get(int(match[1])) if match else None)

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


def find_side_file(root: Path, names: tuple[str, ...], option: str) -> Path | None:
    """The first of ``names`` in the folder or one folder down (``data`` of the devkit).

    Args:
        option: that names the file where it lies elsewhere.

    Raises: UserError ``bad_path`` for a link that leads out of the folder, and for what is no ordinary file.
    """
    for name in names:
        for path in (root / name, *sorted(root.glob(f"*/{name}")), *sorted(root.glob(f"*/data/{name}"))):
            file = check_side_file(path, root)
            if isinstance(file, BadItem):
                raise link_error(path, file.detail, option)
            if file is not None:
                return file
    return None


_KAGGLE = Path("ILSVRC", "Data", "CLS-LOC")
MAX_FOLDER_DEPTH = 32
_SNIFFED_FOLDERS = 200  # folders examined


class ImageFolderOptions(ReaderOptions):
    """Attributes:
    synsets: what classes are called; None: found in the folder by its usual names.
    ground_truth: classes of a flat ``val``; None: likewise.
    """

    synsets: Path | None = None
    ground_truth: Path | None = None


class ImageFolderReader(FormatReader[ImageFolderOptions]):
    """Pair records with labels and no captions, class by class in the order of names."""

    format = "imagefolder"
    options_type = ImageFolderOptions

    @classmethod
    def sniff(cls, path: Path) -> bool:
        if not path.is_dir():
            return False
        root = _root(path)
        folders = [entry for entry in _entries(root) if _is_folder(entry)][:_SNIFFED_FOLDERS]
        splits = [entry for entry in folders if entry.name.lower() in SPLIT_WORDS]
        if splits:
            return any(_is_class(entry) or any(map(_is_class, _folders(entry))) for entry in splits)
        return any(map(_is_class, folders))

    def records(self) -> Iterator[Record | BadItem]:
        root = _root(self.path)
        synsets = read_synsets(self._side("synsets", SYNSET_FILES))
        truth_file = self._side("ground_truth", TRUTH_FILES)
        truth = None if truth_file is None else GroundTruth(truth_file, synsets)
        yield from synsets.problems
        yield from truth.problems if truth is not None else ()
        walk = _FolderWalk(self.path, synsets, truth)
        if walk.leads_out(root):
            message = f"the link {walk.name(root)} leads out of the folder; name the folder that it leads to"
            raise UserError(message, code="bad_path", file=self.path)
        folders = [entry for entry in _entries(root) if _is_folder(entry)]
        splits = [entry for entry in folders if entry.name.lower() in SPLIT_WORDS]
        if not folders:
            raise UserError("there are no class folders here", code="corpus_unreadable", file=self.path)
        if not splits:
            yield from walk.classes(root, "train")
        for entry in splits:
            yield from walk.split(Path(entry.path), SPLIT_WORDS[entry.name.lower()])
        # a folder beside train and val is neither a class nor a split
        for entry in folders if splits else ():
            if entry.name.lower() not in SPLIT_WORDS and _holds_images(entry):
                yield BadItem(walk.name(Path(entry.path)), 0, "image outside a split", "the folder is left out")

    def _side(self, option: str, names: tuple[str, ...]) -> Path | None:
        option_path: Path | None = getattr(self.options, option)
        if option_path is None:
            return find_side_file(self.path, names, option)
        if not option_path.is_file():
            raise UserError("there is no such file", code="bad_option", field=option, file=option_path)
        return option_path


class _FolderWalk:
    """One walk through the folders."""

    def __init__(self, corpus: Path, synsets: Synsets, truth: GroundTruth | None) -> None:
        self._corpus = corpus
        self._inside = corpus.resolve()
        self._synsets = synsets
        self._truth = truth

    def name(self, path: Path) -> str:
        return display_name(path, self._corpus)

    def leads_out(self, folder: Path) -> bool:
        """Whether links of the path lead out of the corpus."""
        return not folder.resolve().is_relative_to(self._inside)

    def split(self, folder: Path, split: str) -> Iterator[Record | BadItem]:
        """A folder of class folders, or a flat one."""
        if self.leads_out(folder):
            yield BadItem(self.name(folder), 0, "unsafe link", "the link leads out of the folder")
            return
        entries = _entries(folder)
        if not any(_is_folder(entry) for entry in entries):
            yield from self._flat(folder, entries, split)
        else:
            yield from self.classes(folder, split)

    def classes(self, folder: Path, split: str) -> Iterator[Record | BadItem]:
        for entry in _entries(folder):
            path = Path(entry.path)
            if _is_folder(entry):
                labels = self._synsets.labels(replace_surrogates(os.fsencode(entry.name).decode("utf-8", "replace")))
                count = 0
                for item in self._images(path, labels, split, 0):
                    count += isinstance(item, Record)
                    yield item
                if not count:
                    yield BadItem(self.name(path), 0, "no images", "the class folder has no image")
            elif _is_image(entry.name):
                yield BadItem(self.name(path), 0, "image outside a class folder", "it has no label")

    def _flat(self, folder: Path, entries: list[os.DirEntry[str]], split: str) -> Iterator[Record | BadItem]:
        if self._truth is None and split != "test":
            detail = f"there is none of {', '.join(TRUTH_FILES)}; the images have no label"
            yield BadItem(self.name(folder), 0, "no ground truth", detail)
        for entry in entries:
            label = self._truth.of(entry.name) if self._truth is not None else None
            if label is None and self._truth is not None and split == "val" and _is_image(entry.name):
                yield BadItem(self.name(Path(entry.path)), 0, "no ground truth", f"not in {self._truth.path.name}")
                continue
            yield from self._image(entry, self._synsets.labels(label) if label else {}, split)

    def _images(self, folder: Path, labels: dict[str, str], split: str, depth: int) -> Iterator[Record | BadItem]:
        if self.leads_out(folder):
            yield BadItem(self.name(folder), 0, "unsafe link", "the link leads out of the folder")
            return
        if depth > MAX_FOLDER_DEPTH:
            yield BadItem(self.name(folder), 0, "nested too deeply", f"more than {MAX_FOLDER_DEPTH} folders")
            return
        try:
            entries = _entries(folder)
        except OSError as error:
            yield BadItem(self.name(folder), 0, "unreadable folder", str(error.strerror))
            return
        for entry in entries:
            if not _is_folder(entry):
                yield from self._image(entry, labels, split)
            elif entry.is_symlink():  # it could lead back up, and round again
                yield BadItem(self.name(Path(entry.path)), 0, "unsafe link", "a link to a folder inside a class")
            else:
                yield from self._images(Path(entry.path), labels, split, depth + 1)

    def _image(self, entry: os.DirEntry[str], labels: dict[str, str], split: str) -> Iterator[Record | BadItem]:
        path = Path(entry.path)
        name = self.name(path)
        if not _is_image(entry.name):
            yield BadItem(name, 0, "not an image", f"files that end in {', '.join(sorted(IMAGE_EXTENSIONS))} are")
            return
        real, ordinary = resolve_file(path)
        if not ordinary or not real.is_relative_to(self._inside):
            problem = "it is not an ordinary file" if not ordinary else "the link leads out of the folder"
            yield BadItem(name, 0, "unreadable file" if not ordinary else "unsafe link", problem)
            return
        inside = os.path.relpath(path, self._corpus).replace(os.sep, "/")
        image = RecordImage(name, partial(read_folder_image, self._corpus, inside))
        yield Record(name, CaptionedImage(name, (), labels), (image,), split=split)


def _root(path: Path) -> Path:
    return path / _KAGGLE if (path / _KAGGLE).is_dir() else path


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Entries of a folder except hidden ones, sorted by name."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _folders(folder: os.DirEntry[str]) -> list[os.DirEntry[str]]:
    return [entry for entry in _entries(Path(folder.path)) if _is_folder(entry)][:_SNIFFED_FOLDERS]


def _is_class(folder: os.DirEntry[str]) -> bool:
    """Whether it has images without texts of their own."""
    return sniff_pairs(Path(folder.path)) is False


def _holds_images(folder: os.DirEntry[str]) -> bool:
    with os.scandir(folder.path) as entries:
        return any(_is_image(entry.name) for entry in entries)


def _is_image(name: str) -> bool:
    return name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS and "." in name
