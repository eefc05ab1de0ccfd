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

from lcl_core.common.errors import UserError, import_optional
from lcl_core.data.formats.base import (
    SPLIT_WORDS,
    FormatReader,
    ReaderOptions,
    check_corpus_file,
    check_side_file,
    display_name,
    is_image_file,
    link_error,
    list_folder,
    to_printable,
)
from lcl_core.data.formats.image_lookup import read_folder_image
from lcl_core.data.formats.webdataset import sniff_pairs
from lcl_core.data.records import BadItem, CaptionedImage, Record, RecordImage

SYNSET_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "synset_mapping.txt", "synsets.txt", "meta.mat")
TRUTH_FILES = (
    "ILSVRC2012_validation_ground_truth.txt",
    "imagenet_2012_validation_synset_labels.txt",
    "LOC_val_solution.csv",
    "val.txt",
)
MAX_SIDE_FILE_BYTES = 64 << 20
MAX_FOLDER_DEPTH = 32
_KAGGLE = Path("ILSVRC", "Data", "CLS-LOC")
_SNIFFED_FOLDERS = 200
_SYNSET = re.compile(r"(?:(\d{1,6})\s+)?(n\d{8})(?:[\s:,]+(\S.*))?")
_NUMBERED_NAME = re.compile(r".*_(\d{8})")


@dataclass
class Synsets:
    """What is known of classes.

    Attributes:
        names: words by synset; empty where no file has them.
        listed: synsets in the order of the file.
        numbers: synset by ILSVRC's number, where the file has it.
        problems: lines that could not be read.
    """

    names: dict[str, str] = field(default_factory=dict)
    listed: list[str] = field(default_factory=list)
    numbers: dict[int, str] = field(default_factory=dict)
    problems: list[BadItem] = field(default_factory=list)

    def labels(self, folder: str) -> dict[str, str]:
        """Labels of the images of a class folder: ``class``, and for a known synset ``wnid``, too."""
        name = self.names.get(folder)
        return {"class": folder} if name is None else {"class": name, "wnid": folder}


def read_synsets(path: Path | None) -> Synsets:
    """Read a map of synsets; words that two synsets share get the synset added. Raises: UserError."""
    synsets, words = Synsets(), dict[str, str]()
    if path is None:
        return synsets
    rows = _matlab_rows(path) if path.suffix.lower() == ".mat" else enumerate(read_text_lines(path), start=1)
    for line, text in rows:
        match = _SYNSET.fullmatch(text.strip()[:2000])
        if not text.strip():
            continue
        if match is None or match[2] in words:
            problem = "a synset such as n01440764 is expected" if match is None else f"{match[2]} occurs twice"
            synsets.problems.append(BadItem(path.name, line, "bad synset line", f"{problem}: {text[:100]!r}"))
            continue
        number, wnid = int(match[1] or 0), match[2]
        words[wnid] = (match[3] or "").strip()
        synsets.listed.append(wnid)
        if number:
            synsets.numbers[number] = wnid
    shared = Counter(words.values())
    synsets.names = {wnid: f"{name} ({wnid})" if shared[name] > 1 else name for wnid, name in words.items() if name}
    return synsets


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


def _matlab_rows(path: Path) -> Iterator[tuple[int, str]]:
    """The rows of the devkit as lines of a text file."""
    import_optional("scipy.io", "reading meta.mat", extra="data")
    from scipy.io import loadmat

    try:
        synsets = loadmat(path, squeeze_me=True, variable_names=["synsets"])["synsets"]
        for number, wnid, words in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], synsets["words"], strict=True):
            if int(number) <= 1000:  # the synsets above those of the challenge have numbers from 1001 on
                yield 0, f"{int(number)} {wnid} {words}"
    except Exception as error:  # the parser meets malformed bytes with any exception type
        message = f"the file is not the devkit's meta.mat ({type(error).__name__}: {str(error)[:200]})"
        raise UserError(message, code="file_unreadable", file=path) from error


class GroundTruth:
    """The class folder of each image of a flat folder. ``problems``: lines that could not be read.

    Raises: UserError when the file cannot be read, or gives numbers that ``synsets`` does not explain.
    """

    def __init__(self, path: Path, synsets: Synsets) -> None:
        self.path = path
        self._synsets = synsets
        self._by_name: dict[str, str] = {}
        self._by_number: dict[int, str] = {}
        self.problems: list[BadItem] = []
        for line, text in enumerate(read_text_lines(path), start=1):
            name, *rest = text.strip()[:2000].replace(",", " ").split()[:2] or [""]
            if not name or name == "ImageId":
                continue
            value = self._class(rest[0], from_zero=True) if rest else self._class(name, from_zero=False)
            if value is None:
                self.problems.append(BadItem(path.name, line, "bad ground truth line", text[:100]))
            elif rest:
                self._by_name[name.rpartition(".")[0] or name] = value
            else:
                self._by_number[line] = value

    def of(self, name: str) -> str | None:
        """The class folder's name for an image such as ``ILSVRC2012_val_00000001.JPEG``; None: unknown."""
        stem = name.rpartition(".")[0]
        match = _NUMBERED_NAME.fullmatch(stem)
        return self._by_name.get(stem) or (self._by_number.get(int(match[1])) if match else None)

    def _class(self, text: str, *, from_zero: bool) -> str | None:
        """A number beside a name counts the listed synsets from 0; a number alone is ILSVRC's own."""
        if not (text.isascii() and text.isdigit() and len(text) < 7):
            return text if re.fullmatch(r"n\d{8}", text) else None
        what = "a list of synsets, such as LOC_synset_mapping.txt" if from_zero else "the devkit's meta.mat"
        if not (self._synsets.listed if from_zero else self._synsets.numbers):
            message = f"it tells classes by number; to know which is meant, give {what} as option 'synsets'"
            raise UserError(message, code="bad_option", field="synsets", file=self.path)
        if from_zero:
            return next(iter(self._synsets.listed[int(text) : int(text) + 1]), None)
        return self._synsets.numbers.get(int(text))


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
        """Folders, or folders of splits, whose images have no texts of their own."""
        if not path.is_dir():
            return False
        folders = _folders(_root(path))
        splits = [folder for folder in folders if folder.name.lower() in SPLIT_WORDS]
        below = (each for split in splits for each in (split, *_folders(split)))
        return any(sniff_pairs(folder) is False for folder in (below if splits else folders))

    def records(self) -> Iterator[Record | BadItem]:
        root = _root(self.path)
        synsets = read_synsets(self._side_file("synsets", SYNSET_FILES))
        truth_file = self._side_file("ground_truth", TRUTH_FILES)
        truth = None if truth_file is None else GroundTruth(truth_file, synsets)
        yield from synsets.problems
        yield from truth.problems if truth is not None else ()
        walk = _FolderWalk(self.path, synsets, truth)
        if walk.leads_out(root):
            message = f"the link {display_name(root, self.path)} leads out of the folder; name where it leads to"
            raise UserError(message, code="bad_path", file=self.path)
        folders = [name for name, is_folder in list_folder(root) if is_folder]
        splits = [name for name in folders if name.lower() in SPLIT_WORDS]
        if not folders:
            raise UserError("there are no class folders here", code="corpus_unreadable", file=self.path)
        if not splits:
            yield from walk.classes(root, "train")
        for name in splits:
            yield from walk.split(root / name, SPLIT_WORDS[name.lower()])
        for name in sorted(set(folders) - set(splits)) if splits else ():
            if any(is_image_file(each) for each, _ in list_folder(root / name)):
                detail = "the folder, beside those of splits, is left out"
                yield BadItem(display_name(root / name, self.path), 0, "image outside a split", detail)

    def _side_file(self, option: str, names: tuple[str, ...]) -> Path | None:
        """The file that the option names, or the first of ``names`` here, one folder down, or in the devkit's ``data``.

        Raises: UserError ``bad_path`` for a link that leads out of the folder, and for what is no ordinary file.
        """
        chosen: Path | None = getattr(self.options, option)
        if chosen is not None:
            if not chosen.is_file():
                raise UserError("there is no such file", code="bad_option", field=option, file=chosen)
            return chosen
        for name in names:
            for path in (self.path / name, *sorted(self.path.glob(f"*/{name}")), *self.path.glob(f"*/data/{name}")):
                file = check_side_file(path, self.path)
                if isinstance(file, BadItem):
                    raise link_error(path, file.detail, option)
                if file is not None:
                    return file
        return None


class _FolderWalk:
    """One walk through the folders."""

    def __init__(self, corpus: Path, synsets: Synsets, truth: GroundTruth | None) -> None:
        self._corpus, self._inside = corpus, corpus.resolve()
        self._synsets, self._truth = synsets, truth

    def leads_out(self, folder: Path) -> bool:
        """Whether links of the path lead out of the corpus."""
        return not folder.resolve().is_relative_to(self._inside)

    def split(self, folder: Path, split: str) -> Iterator[Record | BadItem]:
        """A folder of class folders, or a flat one."""
        if self.leads_out(folder):
            yield self._bad(folder, "unsafe link", "the link leads out of the folder")
        elif any(is_folder for _, is_folder in list_folder(folder)):
            yield from self.classes(folder, split)
        else:
            yield from self._flat(folder, split)

    def classes(self, folder: Path, split: str) -> Iterator[Record | BadItem]:
        for name, is_folder in list_folder(folder):
            if is_folder:
                labels, count = self._synsets.labels(to_printable(name)), 0
                for item in self._images(folder / name, labels, split, 0):
                    count += isinstance(item, Record)
                    yield item
                if not count:
                    yield self._bad(folder / name, "no images", "the class folder has no image")
            elif is_image_file(name):
                yield self._bad(folder / name, "image outside a class folder", "it has no label")

    def _flat(self, folder: Path, split: str) -> Iterator[Record | BadItem]:
        if self._truth is None and split != "test":
            detail = f"there is none of {', '.join(TRUTH_FILES)}; the images have no label"
            yield self._bad(folder, "no ground truth", detail)
        for name, _ in list_folder(folder):
            label = self._truth.of(name) if self._truth is not None else None
            if label is None and self._truth is not None and split == "val" and is_image_file(name):
                yield self._bad(folder / name, "no ground truth", f"not in {self._truth.path.name}")
            else:
                yield self._image(folder / name, self._synsets.labels(label) if label else {}, split)

    def _images(self, folder: Path, labels: dict[str, str], split: str, depth: int) -> Iterator[Record | BadItem]:
        if depth > MAX_FOLDER_DEPTH:
            yield self._bad(folder, "nested too deeply", f"more than {MAX_FOLDER_DEPTH} folders")
            return
        # a link to a folder inside a class could lead back up, and round again
        if self.leads_out(folder) or (depth and folder.is_symlink()):
            yield self._bad(folder, "unsafe link", "a link to a folder inside a class, or out of the corpus")
            return
        try:
            entries = list_folder(folder)
        except OSError as error:
            yield self._bad(folder, "unreadable folder", str(error.strerror))
            return
        for name, is_folder in entries:
            if is_folder:
                yield from self._images(folder / name, labels, split, depth + 1)
            else:
                yield self._image(folder / name, labels, split)

    def _image(self, path: Path, labels: dict[str, str], split: str) -> Record | BadItem:
        if not is_image_file(path.name):
            return self._bad(path, "not an image", "its name does not end as that of an image")
        file = check_corpus_file(path, self._corpus)
        if isinstance(file, BadItem):
            return file
        name = display_name(path, self._corpus)
        inside = os.path.relpath(path, self._corpus).replace(os.sep, "/")
        image = RecordImage(name, partial(read_folder_image, self._corpus, inside))
        return Record(name, CaptionedImage(name, (), labels), (image,), split=split)

    def _bad(self, path: Path, reason: str, detail: str) -> BadItem:
        return BadItem(display_name(path, self._corpus), 0, reason, detail)


def _root(path: Path) -> Path:
    return path / _KAGGLE if (path / _KAGGLE).is_dir() else path


def _folders(folder: Path) -> list[Path]:
    return [folder / name for name, is_folder in list_folder(folder) if is_folder][:_SNIFFED_FOLDERS]
