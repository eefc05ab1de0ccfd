"""Karpathy's splits: ``dataset_coco.json``, ``dataset_flickr30k.json`` (and 8k) and the folders of images they name.

    ROOT/dataset_coco.json        {"images": [{"filepath": "val2014", "filename", "split", "sentences": [{"raw"}],
    ROOT/val2014/COCO_val2014_…   "cocoid", …}], "dataset": "coco"}; Flickr's have no filepath

Source: https://cs.stanford.edu/people/karpathy/deepimagesent/
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lcl_core.data.formats.base import FormatReader, ReaderOptions, contains_files
from lcl_core.data.formats.coco import images_folder
from lcl_core.data.formats.image_lookup import NamedImages
from lcl_core.data.formats.mmc4 import check_image_name
from lcl_core.data.formats.text_files import JsonArrays, read_json_files
from lcl_core.data.json_values import BadValue
from lcl_core.data.records import BadItem, CaptionedImage, Record, RecordImage

_FILES = re.compile(r"dataset_(coco|flickr\w+)\.json", re.I)
SPLITS = ("train", "restval", "val", "test")
_DROPPED_FIELDS = frozenset(("sentences", "split", "filename", "filepath"))


class KarpathyOptions(ReaderOptions):
    """Attributes:
    images: folder or tar of the images; None: where the file lies.
    merge_restval: count ``restval``, the rest of COCO's validation images, as ``train``, as most papers do.
    """

    images: Path | None = None
    merge_restval: bool = False


class KarpathyReader(FormatReader[KarpathyOptions]):
    """Pair records; ``source`` is ``coco``, ``flickr30k`` …"""

    format = "karpathy"
    options_type = KarpathyOptions

    @classmethod
    def sniff(cls, path: Path) -> bool:
        return contains_files(path, _is_dataset)

    def paths_beside(self) -> list[tuple[str, Path]]:
        return [("images", images_folder(self.path, self.options.images))]

    def records(self) -> Iterator[Record | BadItem]:
        images = NamedImages(images_folder(self.path, self.options.images))
        yield from images.problems
        for arrays in read_json_files(self.path, _is_dataset):
            yield from (arrays,) if isinstance(arrays, BadItem) else self._file(arrays, images)

    def _file(self, arrays: JsonArrays, images: NamedImages) -> Iterator[Record | BadItem]:
        found = _FILES.fullmatch(arrays.path.name)
        source = found[1].lower() if found else ""
        number = 0
        for element in arrays.elements():
            if isinstance(element, BadItem):
                yield element
            elif element.key == "images" and not element.array:
                yield BadItem(arrays.name, element.line, "bad json", "images must be an array")
            elif element.array == "images":
                number += 1
                yield from self._image(element.value, (arrays.name, element.line, number), source, images)
        if not number:
            yield BadItem(arrays.name, 0, "no images", "the file lists no image")

    def _image(
        self, image: Any, location: tuple[str, int, int], source: str, images: NamedImages
    ) -> Iterator[Record | BadItem]:
        file, line, number = location
        try:
            name = _image_name(image)
            captions, empty = _captions(image.get("sentences"))
            split = image.get("split")
            if split not in SPLITS:
                raise BadValue(f"split {str(split)[:60]!r} is none of {', '.join(SPLITS)}")
        except BadValue as error:
            yield BadItem(file, line, "bad image entry", str(error))
            return
        if empty:
            yield BadItem(file, line, "empty caption", f"{empty} captions of {name[:120]!r} are left out")
        yield Record(
            id=f"{Path(file).with_suffix('').as_posix()}:{number}",
            body=CaptionedImage(name, captions),
            images=(_find_image(name, images),),
            split="train" if self.options.merge_restval and split == "restval" else split,
            source=source,
            extra={key: value for key, value in image.items() if key not in _DROPPED_FIELDS} | {"split": split},
        )


def _image_name(image: Any) -> str:
    if not isinstance(image, dict):
        raise BadValue("it must be an object")
    for field, value in (("filename", image.get("filename")), ("filepath", image.get("filepath") or "folder")):
        problem = check_image_name(value)
        if problem is not None:
            raise BadValue(f"{field} {problem}")
    return "/".join(part for part in (image.get("filepath"), image["filename"]) if part)


def _captions(sentences: Any) -> tuple[tuple[str, ...], int]:
    """The captions as they were written, and how many were empty. Raises: BadValue."""
    if not isinstance(sentences, list) or not all(isinstance(sentence, dict) for sentence in sentences):
        raise BadValue("sentences must be an array of objects")
    raw = [sentence.get("raw") for sentence in sentences]
    if not all(isinstance(caption, str) for caption in raw):
        raise BadValue("raw of each sentence must be a string")
    captions = tuple(caption.strip() for caption in raw if caption.strip())
    return captions, len(raw) - len(captions)


def _find_image(name: str, images: NamedImages) -> RecordImage:
    last = name.rpartition("/")[2]
    folders = ("images", "flickr30k-images", "flickr30k_images", "Flicker8k_Dataset")
    return images.find([name, last, *(f"{folder}/{part}" for folder in folders for part in (name, last))], name)


def _is_dataset(name: str) -> bool:
    return _FILES.fullmatch(name) is not None
