"""Images in a folder a class, and ImageNet as it is distributed.

    ROOT/CLASS/**/IMAGE               class folders; the split is "train"
    ROOT/{train,val,test}/CLASS/…     the same for each split
    ROOT/val/IMAGE                    flat, with a file of ground truth; without one, images have no label
    ROOT/LOC_synset_mapping.txt       what classes are called, see ``lcl_core.data.readers.synsets``
    ROOT/ILSVRC/Data/CLS-LOC/train/…  as Kaggle gives it

Labels are ``class``, the folder's name or the words for its synset, and then ``wnid``, the synset.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lcl_core.data.readers.base import Reader
from lcl_core.data.readers.folders import real_file, shown
from lcl_core.data.readers.images import IMAGE_EXTENSIONS
from lcl_core.data.readers.loading import read_file
from lcl_core.data.readers.options import ReaderOptions
from lcl_core.data.readers.synsets import (
    SYNSET_FILES,
    TRUTH_FILES,
    GroundTruth,
    Synsets,
    find_side_file,
    read_synsets,
)
from lcl_core.data.readers.values import well_formed
from lcl_core.data.record import BadItem, Pair, Picture, Record
from lcl_core.errors import UserError

_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"}
_SPLITS |= {"test": "test", "testing": "test"}
_KAGGLE = Path("ILSVRC", "Data", "CLS-LOC")
MAX_DEPTH = 32
_SNIFFED = 200  # folders looked at


class ImageFolderOptions(ReaderOptions):
    """Attributes:
    synsets: what classes are called; None: found in the folder by its usual names.
    ground_truth: classes of a flat ``val``; None: likewise.
    """

    synsets: Path | None = None
    ground_truth: Path | None = None


class ImageFolderReader(Reader[ImageFolderOptions]):
    """Pair records with labels and no captions, class by class in the order of names."""

    format = "imagefolder"
    options_type = ImageFolderOptions

    @classmethod
    def sniff(cls, path: Path) -> bool:
        if not path.is_dir():
            return False
        root = _root(path)
        folders = [entry for entry in _entries(root) if _is_folder(entry)][:_SNIFFED]
        splits = [entry for entry in folders if entry.name.lower() in _SPLITS]
        if splits:
            return any(_holds_images(entry) or any(map(_holds_images, _folders(entry))) for entry in splits)
        return any(map(_holds_images, folders))

    def records(self) -> Iterator[Record | BadItem]:
        root = _root(self.path)
        synsets = read_synsets(self._side("synsets", SYNSET_FILES))
        truth_file = self._side("ground_truth", TRUTH_FILES)
        truth = None if truth_file is None else GroundTruth(truth_file, synsets)
        yield from synsets.problems
        yield from truth.problems if truth is not None else ()
        walk = _Walk(self.path, synsets, truth)
        folders = [entry for entry in _entries(root) if _is_folder(entry)]
        splits = [entry for entry in folders if entry.name.lower() in _SPLITS]
        if not folders:
            raise UserError("there are no class folders here", code="corpus_unreadable", file=self.path)
        if not splits:
            yield from walk.classes(root, "train")
        for entry in splits:
            yield from walk.split(Path(entry.path), _SPLITS[entry.name.lower()])
        # a folder beside train and val is neither a class nor a split
        for entry in folders if splits else ():
            if entry.name.lower() not in _SPLITS and _holds_images(entry):
                yield BadItem(walk.name(Path(entry.path)), 0, "image outside a split", "the folder is left out")

    def _side(self, option: str, names: tuple[str, ...]) -> Path | None:
        given: Path | None = getattr(self.options, option)
        if given is None:
            return find_side_file(self.path, names)
        if not given.is_file():
            raise UserError("there is no such file", code="bad_option", field=option, file=given)
        return given


class _Walk:
    """One walk through the folders."""

    def __init__(self, corpus: Path, synsets: Synsets, truth: GroundTruth | None) -> None:
        self._corpus = corpus
        self._inside = corpus.resolve()
        self._synsets = synsets
        self._truth = truth

    def name(self, path: Path) -> str:
        return shown(path, self._corpus)

    def split(self, folder: Path, split: str) -> Iterator[Record | BadItem]:
        """A folder of class folders, or a flat one."""
        entries = _entries(folder)
        if not any(_is_folder(entry) for entry in entries):
            yield from self._flat(folder, entries, split)
        else:
            yield from self.classes(folder, split)

    def classes(self, folder: Path, split: str) -> Iterator[Record | BadItem]:
        for entry in _entries(folder):
            path = Path(entry.path)
            if _is_folder(entry):
                labels = self._synsets.labels(well_formed(os.fsencode(entry.name).decode("utf-8", "replace")))
                found = 0
                for item in self._images(path, labels, split, 0):
                    found += isinstance(item, Record)
                    yield item
                if not found:
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
        if not folder.resolve().is_relative_to(self._inside):
            yield BadItem(self.name(folder), 0, "unsafe link", "the link leads out of the folder")
            return
        if depth > MAX_DEPTH:
            yield BadItem(self.name(folder), 0, "nested too deeply", f"more than {MAX_DEPTH} folders")
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
        real, ordinary = real_file(path)
        if not ordinary or not real.is_relative_to(self._inside):
            problem = "it is not an ordinary file" if not ordinary else "the link leads out of the folder"
            yield BadItem(name, 0, "unreadable file" if not ordinary else "unsafe link", problem)
            return
        inside = os.path.relpath(path, self._corpus).replace(os.sep, "/")
        picture = Picture(name, partial(read_file, self._corpus, inside))
        yield Record(name, Pair(name, (), labels), (picture,), split=split)


def _root(path: Path) -> Path:
    return path / _KAGGLE if (path / _KAGGLE).is_dir() else path


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, hidden files apart, in the order of names."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _folders(folder: os.DirEntry[str]) -> list[os.DirEntry[str]]:
    return [entry for entry in _entries(Path(folder.path)) if _is_folder(entry)][:_SNIFFED]


def _holds_images(folder: os.DirEntry[str]) -> bool:
    with os.scandir(folder.path) as entries:
        return any(_is_image(entry.name) for entry in entries)


def _is_image(name: str) -> bool:
    return name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS and "." in name
