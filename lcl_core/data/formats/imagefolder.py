"""Images in one folder for each class.

    ROOT/CLASS/**/IMAGE               class folders; the split is "train"
    ROOT/{train,val,test}/CLASS/…     the same for each split

Labels are ``class``, the folder's name or the words of its synset, and then ``wnid``, the synset. Words of synsets are
those of the option ``synsets``, or of LOC_synset_mapping.txt, synset_words.txt or synset_mapping.txt in ROOT, a line
each: ``n01440764 tench, Tinca tinca``. Other layouts, such as a flat folder of ImageNet's validation set, are read by
a table of their images and labels.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lcl_core.common.errors import UserError
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
from lcl_core.data.formats.text_files import TextLine, read_lines
from lcl_core.data.formats.webdataset import sniff_pairs
from lcl_core.data.records import BadItem, CaptionedImage, Record, RecordImage

SYNSET_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "synset_mapping.txt")
MAX_FOLDER_DEPTH = 32
_SNIFFED_FOLDERS = 200
_SYNSET = re.compile(r"(n\d{8})(?:[\s:,]+(\S.*))?")


class ImageFolderOptions(ReaderOptions):
    """Attributes:
    synsets: file of what classes are called; None: found in the folder by its usual names.
    """

    synsets: Path | None = None


class ImageFolderReader(FormatReader[ImageFolderOptions]):
    """Pair records with labels and no captions, class by class in the order of names."""

    format = "imagefolder"
    options_type = ImageFolderOptions

    @classmethod
    def sniff(cls, path: Path) -> bool:
        """Folders, or folders of splits, whose images have no texts of their own."""
        if not path.is_dir():
            return False
        folders = _folders(path)
        splits = [folder for folder in folders if folder.name.lower() in SPLIT_WORDS]
        below = (each for split in splits for each in _folders(split))
        return any(sniff_pairs(folder) is False for folder in (below if splits else folders))

    def records(self) -> Iterator[Record | BadItem]:
        self._names: dict[str, str] = {}
        yield from self._read_synsets()
        folders = [name for name, is_folder in list_folder(self.path) if is_folder]
        splits = [name for name in folders if name.lower() in SPLIT_WORDS]
        if not folders:
            raise UserError("there are no class folders here", code="corpus_unreadable", file=self.path)
        if not splits:
            yield from self._classes(self.path, "train")
        for name in splits:
            yield from self._classes(self.path / name, SPLIT_WORDS[name.lower()])
        for name in sorted(set(folders) - set(splits)) if splits else ():
            if any(is_image_file(each) for each, _ in list_folder(self.path / name)):
                detail = "the folder, beside those of splits, is left out"
                yield self._bad(self.path / name, "image outside a split", detail)

    def _read_synsets(self) -> Iterator[BadItem]:
        """Fill ``_names``: words by synset; those that two synsets share get the synset added."""
        path = self._synsets_file()
        words: dict[str, str] = {}
        for line in read_lines(path, path.name) if path is not None else ():
            text = line.data.decode("utf-8", "replace").strip() if isinstance(line, TextLine) else ""
            match = _SYNSET.fullmatch(text[:2000])
            if isinstance(line, BadItem):
                yield line
            elif text and (match is None or match[1] in words):
                problem = "a synset such as n01440764 is expected" if match is None else f"{match[1]} occurs twice"
                assert path is not None
                yield BadItem(path.name, line.number, "bad synset line", f"{problem}: {text[:100]!r}")
            elif match is not None:
                words[match[1]] = (match[2] or "").strip()
        shared = Counter(words.values())
        self._names = {wnid: f"{name} ({wnid})" if shared[name] > 1 else name for wnid, name in words.items() if name}

    def _synsets_file(self) -> Path | None:
        """Raises: UserError ``bad_path`` for a link that leads out of the folder, and for what is no ordinary file."""
        if (chosen := self.options.synsets) is not None:
            if not chosen.is_file():
                raise UserError("there is no such file", code="bad_option", field="synsets", file=chosen)
            return chosen
        for path in (self.path / name for name in SYNSET_FILES):
            file = check_side_file(path, self.path)
            if isinstance(file, BadItem):
                raise link_error(path, file.detail, "synsets")
            if file is not None:
                return file
        return None

    def _classes(self, folder: Path, split: str) -> Iterator[Record | BadItem]:
        if not self._is_inside(folder):
            yield self._bad(folder, "unsafe link", "the link leads out of the folder")
            return
        for name, is_folder in list_folder(folder):
            if is_folder:
                shown, found = to_printable(name), 0
                labels = {"class": self._names[shown], "wnid": shown} if shown in self._names else {"class": shown}
                for item in self._images(folder / name, labels, split, 0):
                    found += isinstance(item, Record)
                    yield item
                if not found:
                    yield self._bad(folder / name, "no images", "the class folder has no image")
            elif is_image_file(name):
                yield self._bad(folder / name, "image outside a class folder", "it has no label")

    def _images(self, folder: Path, labels: dict[str, str], split: str, depth: int) -> Iterator[Record | BadItem]:
        if depth > MAX_FOLDER_DEPTH:
            yield self._bad(folder, "nested too deeply", f"more than {MAX_FOLDER_DEPTH} folders")
            return
        # a link to a folder inside a class could lead back up, and round again
        if not self._is_inside(folder) or (depth and folder.is_symlink()):
            yield self._bad(folder, "unsafe link", "a link to a folder inside a class, or out of the corpus")
            return
        try:
            entries = list_folder(folder)
        except OSError as error:
            yield self._bad(folder, "unreadable folder", str(error.strerror))
            return
        for name, is_folder in entries:
            path = folder / name
            if is_folder:
                yield from self._images(path, labels, split, depth + 1)
            elif not is_image_file(name):
                yield self._bad(path, "not an image", "its name does not end as that of an image")
            elif isinstance(file := check_corpus_file(path, self.path), BadItem):
                yield file
            else:
                shown = display_name(path, self.path)
                inside = os.path.relpath(path, self.path).replace(os.sep, "/")
                image = RecordImage(shown, partial(read_folder_image, self.path, inside))
                yield Record(shown, CaptionedImage(shown, (), labels), (image,), split=split)

    def _is_inside(self, folder: Path) -> bool:
        return folder.resolve().is_relative_to(self.path.resolve())

    def _bad(self, path: Path, reason: str, detail: str) -> BadItem:
        return BadItem(display_name(path, self.path), 0, reason, detail)


def _folders(folder: Path) -> list[Path]:
    return [folder / name for name, is_folder in list_folder(folder) if is_folder][:_SNIFFED_FOLDERS]
