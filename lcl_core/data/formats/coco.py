"""COCO captions: ``captions_{split}.json`` (and ``image_info_{split}.json``, without captions) and a folder of images.

    ROOT/annotations/captions_train2014.json    {"images": [{"id", "file_name", …}], "annotations": [{"image_id",
    ROOT/train2014/COCO_train2014_….jpg         "caption", …}], …}, a caption each; five or so an image

Also one such file, or a folder of them. Source: https://cocodataset.org/#format-data

NoCaps: ``nocaps_val_4500_captions.json`` and ``nocaps_test_image_info.json``, as COCO captions with domains. ``source``
of a record is the domain of its image: ``in-domain``, ``near-domain`` or ``out-domain``, as COCO's classes are in it;
empty where the file has none (the test images). Source: https://nocaps.org
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeGuard

from lcl_core.data.formats.base import FormatReader, ReaderOptions, contains_files
from lcl_core.data.formats.image_lookup import NamedImages
from lcl_core.data.formats.mmc4 import check_image_name
from lcl_core.data.formats.text_files import JsonArrays, JsonElement, read_json_files
from lcl_core.data.json_values import BadValue
from lcl_core.data.records import BadItem, CaptionedImage, Record, RecordImage

Id = int | str


class CocoOptions(ReaderOptions):
    """Attributes:
    images: folder or tar of the images; None: where the annotations lie, or the folder above.
    split: of all records; None: as the file's name says.
    """

    images: Path | None = None
    split: str | None = None


class CocoReader(FormatReader[CocoOptions]):
    """Pair records with every caption of an image, in the order of ``images``."""

    format = "coco"
    options_type = CocoOptions
    files: ClassVar[re.Pattern[str]] = re.compile(r"(?:captions|image_info)_(.+)\.json", re.I)

    @classmethod
    def sniff(cls, path: Path) -> bool:
        return contains_files(path, cls._is_annotations)

    def paths_beside(self) -> list[tuple[str, Path]]:
        return [("images", images_folder(self.path, self.options.images))]

    def records(self) -> Iterator[Record | BadItem]:
        images = NamedImages(images_folder(self.path, self.options.images))
        yield from images.problems
        for arrays in read_json_files(self.path, self._is_annotations):
            yield from (arrays,) if isinstance(arrays, BadItem) else self._file(arrays, images)

    def source_of(self, image: dict[str, Any]) -> str:
        """The part of the corpus that an image belongs to. Raises: BadValue."""
        return ""

    @classmethod
    def _is_annotations(cls, name: str) -> bool:
        return cls.files.fullmatch(name) is not None

    def _file(self, arrays: JsonArrays, images: NamedImages) -> Iterator[Record | BadItem]:
        captions = _CaptionIndex(arrays.name)
        yield from captions.fill(arrays)
        match = self.files.fullmatch(arrays.path.name)
        part = match[1] if match else ""
        split = self.options.split or _split(part)
        seen: set[Id] = set()
        for element in arrays.elements():
            # problems of the file as a whole were reported on the first walk
            if isinstance(element, BadItem) or element.array != "images":
                continue
            try:
                image = _check_image(element.value, seen)
                source = self.source_of(image)
            except BadValue as error:
                yield BadItem(arrays.name, element.line, "bad image entry", str(error))
                continue
            seen.add(image["id"])
            yield Record(
                id=f"{Path(arrays.name).with_suffix('').as_posix()}:{image['id']}",
                body=CaptionedImage(image["file_name"], captions.pop(image["id"])),
                images=(_find_image(image, part, images),),
                split=split,
                source=source,
                extra={key: value for key, value in image.items() if key != "file_name"},
            )
        yield from captions.without_image()
        if not seen:
            yield BadItem(arrays.name, 0, "no images", "the file lists no image that can be used")


class _CaptionIndex:
    """Captions by image, held for one file: about 200 bytes each."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._of: dict[Id, list[str]] = {}
        self._lines: dict[Id, int] = {}

    def fill(self, arrays: JsonArrays) -> Iterator[BadItem]:
        """Collect, and give what is wrong with annotations and with the file."""
        for element in arrays.elements():
            if isinstance(element, BadItem):
                yield element
            elif element.array == "annotations":
                problem = self._add(element)
                if problem is not None:
                    yield BadItem(self._name, element.line, "bad annotation", problem)
            elif element.key in ("images", "annotations") and not element.array:
                yield BadItem(self._name, element.line, "bad json", f"{element.key} must be an array")

    def pop(self, image: Id) -> tuple[str, ...]:
        self._lines.pop(image, None)
        return tuple(self._of.pop(image, ()))

    def without_image(self) -> Iterator[BadItem]:
        """A BadItem for each image that has captions and is not listed."""
        for image, captions in self._of.items():
            detail = f"image {str(image)[:60]!r} is not listed; {len(captions)} captions are left out"
            yield BadItem(self._name, self._lines[image], "caption without image", detail)

    def _add(self, element: JsonElement) -> str | None:
        value = element.value
        if not isinstance(value, dict):
            return "it must be an object"
        image, caption = value.get("image_id"), value.get("caption")
        if not is_id(image):
            return "image_id must be a number or a string"
        if not isinstance(caption, str):
            return "caption must be a string"
        if not caption.strip():
            return "the caption is empty"
        self._lines.setdefault(image, element.line)
        self._of.setdefault(image, []).append(caption.strip())
        return None


def is_id(value: Any) -> TypeGuard[Id]:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def images_folder(annotations: Path, option: Path | None) -> Path:
    """As the option says, or where the annotations lie; of a folder ``annotations``, the one above."""
    if option is not None:
        return option
    folder = annotations if annotations.is_dir() else annotations.parent
    return folder.resolve().parent if folder.resolve().name == "annotations" else folder


def _check_image(value: Any, seen: set[Id]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadValue("it must be an object")
    problem = check_image_name(value.get("file_name"))
    if problem is not None:
        raise BadValue(f"file_name {problem}")
    if not is_id(value.get("id")):
        raise BadValue("id must be a number or a string")
    if value["id"] in seen:
        raise BadValue(f"the id {str(value['id'])[:60]!r} occurs twice")
    return value


def _find_image(image: dict[str, Any], part: str, images: NamedImages) -> RecordImage:
    name = image["file_name"]
    url = image.get("coco_url")
    folders = [part, re.sub(r"[^a-z].*", "", part)]
    if isinstance(url, str) and url.count("/") > 3:
        folders.append(url.split("/")[-2])  # a validation file may name training images
    below = [f"{folder}/{name}" for folder in dict.fromkeys(folders) if folder and folder not in (".", "..")]
    return images.find([name, *below, *(f"images/{path}" for path in (name, *below))], name, url and str(url))


def _split(part: str) -> str:
    """Of ``train2014``, ``val2017``, ``val_4500`` … the word that is a split, else "train"."""
    match = re.search(r"train|val|test", part.lower())
    return match[0] if match else "train"


DOMAINS = ("in-domain", "near-domain", "out-domain")


class NoCapsReader(CocoReader):
    """Pair records, ten captions an image where they are public."""

    format = "nocaps"
    files = re.compile(r"nocaps_((?:val|test).*)\.json", re.I)

    def source_of(self, image: dict[str, Any]) -> str:
        domain = image.get("domain") or ""
        if domain and domain not in DOMAINS:
            raise BadValue(f"domain {str(domain)[:60]!r} is none of {', '.join(DOMAINS)}")
        return str(domain)
