"""COCO captions, NoCaps and Karpathy's splits: JSON files of images and captions, and folders or tars of the images.

    ROOT/annotations/captions_train2014.json    {"images": [{"id", "file_name", …}], "annotations": [{"image_id",
    ROOT/train2014/COCO_train2014_….jpg         "caption", …}], …}, a caption each; five or so an image

Also one such file, or a folder of them; ``image_info_*.json`` has no captions. https://cocodataset.org/#format-data

NoCaps: ``nocaps_val_4500_captions.json`` and ``nocaps_test_image_info.json``, as COCO captions with domains. ``source``
of a record is the domain of its image, as COCO's classes are in it. https://nocaps.org

Karpathy: ``dataset_coco.json``, ``dataset_flickr30k.json`` (and 8k), Flickr's without ``filepath``:

    ROOT/dataset_coco.json        {"images": [{"filepath": "val2014", "filename", "split", "sentences": [{"raw"}],
    ROOT/val2014/COCO_val2014_…   "cocoid", …}], "dataset": "coco"}

https://cs.stanford.edu/people/karpathy/deepimagesent/
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, StrictInt, StrictStr

from lcl_core.data.formats.base import (
    ImageName,
    contains_files,
    corpus_paths,
    display_name,
    validate_item,
)
from lcl_core.data.formats.image_lookup import ImagesOptions, ImagesReader, Options
from lcl_core.data.formats.text_files import read_json_file
from lcl_core.data.jsonl import BadValue
from lcl_core.data.records import BadItem, CaptionedImage, Record, RecordImage


class CaptionFilesReader(ImagesReader[Options]):
    """JSON files, each an object with lists; images lie where the file does, or where the option ``images`` says."""

    files: ClassVar[re.Pattern[str]]
    lists: ClassVar[tuple[str, ...]] = ("images",)

    @classmethod
    def sniff(cls, path: Path) -> bool:
        return contains_files(path, cls._is_annotations)

    @classmethod
    def _is_annotations(cls, name: str) -> bool:
        return cls.files.fullmatch(name) is not None

    def paths(self) -> list[Path]:
        return corpus_paths(self.path, self._is_annotations)

    def paths_beside(self) -> list[tuple[str, Path]]:
        return [("images", self.images_folder)]

    @property
    def images_folder(self) -> Path:
        """As the option says, or where the annotations lie; of a folder ``annotations``, the one above."""
        if self.options.images is not None:
            return self.options.images
        folder = self.folder.resolve()
        return folder.parent if folder.name == "annotations" else folder

    def read_file(self, file: Path) -> Iterator[Record | BadItem]:
        name = display_name(file, self.path)
        value = read_json_file(file, name)
        if isinstance(value, BadItem):
            yield value
            return
        for key in self.lists:
            if not isinstance(value, dict) or not isinstance(value.get(key, []), list):
                yield BadItem(name, 0, "bad json", f"it must be an object, whose {key} is an array")
                return
        match = self.files.fullmatch(file.name)
        yield from self.read_lists(name, match[1] if match else "", value)
        if not value.get("images"):
            yield BadItem(name, 0, "no images", "the file lists no image")

    @abstractmethod
    def read_lists(self, name: str, part: str, value: dict[str, Any]) -> Iterator[Record | BadItem]:
        """The items of a file, whose name says that it is ``part`` of the corpus."""


class CocoImage(BaseModel):
    """An element of ``images``."""

    model_config = ConfigDict(extra="allow")

    id: StrictInt | StrictStr
    file_name: ImageName
    coco_url: Any = None
    domain: Literal["", "in-domain", "near-domain", "out-domain"] | None = None


class CocoCaption(BaseModel):
    """An element of ``annotations``."""

    image_id: StrictInt | StrictStr
    caption: StrictStr


class CocoOptions(ImagesOptions):
    """Attributes:
    split: of all records; None: as the file's name says.
    """

    split: str | None = None


class CocoReader(CaptionFilesReader[CocoOptions]):
    """Pair records with every caption of an image, in the order of ``images``."""

    format = "coco"
    options_type = CocoOptions
    files = re.compile(r"(?:captions|image_info)_(.+)\.json", re.I)
    lists = ("images", "annotations")

    def read_lists(self, name: str, part: str, value: dict[str, Any]) -> Iterator[Record | BadItem]:
        captions: dict[int | str, list[str]] = {}
        for number, element in enumerate(value.get("annotations", ())):
            try:
                annotation = validate_item(CocoCaption, element)
                if not annotation.caption.strip():
                    raise BadValue("the caption is empty")
            except BadValue as error:
                yield BadItem(name, 0, "bad annotation", f"annotations[{number}]: {error}")
                continue
            captions.setdefault(annotation.image_id, []).append(annotation.caption.strip())
        seen: set[int | str] = set()
        for number, element in enumerate(value.get("images", ())):
            try:
                image = validate_item(CocoImage, element)
                if image.id in seen:
                    raise BadValue(f"the id {str(image.id)[:60]!r} occurs twice")
            except BadValue as error:
                yield BadItem(name, 0, "bad image entry", f"images[{number}]: {error}")
                continue
            seen.add(image.id)
            yield Record(
                id=f"{Path(name).with_suffix('').as_posix()}:{image.id}",
                body=CaptionedImage(image.file_name, tuple(captions.pop(image.id, ()))),
                images=(self._find(image, part),),
                split=self.options.split or _split(part),
                source=self.source_of(image),
                extra={key: field for key, field in element.items() if key != "file_name"},
            )
        for id, texts in captions.items():
            detail = f"image {str(id)[:60]!r} is not listed; {len(texts)} captions are left out"
            yield BadItem(name, 0, "caption without image", detail)

    def source_of(self, image: CocoImage) -> str:
        """The part of the corpus that an image belongs to."""
        return ""

    def _find(self, image: CocoImage, part: str) -> RecordImage:
        url = image.coco_url if isinstance(image.coco_url, str) else None
        folders = [part, re.sub(r"[^a-z].*", "", part)]
        if url is not None and url.count("/") > 3:
            folders.append(url.split("/")[-2])  # a validation file may name training images
        name = image.file_name
        below = [f"{folder}/{name}" for folder in folders if folder not in ("", ".", "..")]
        return self.images.find_first([name, *below, *(f"images/{path}" for path in (name, *below))], name, url)


class NoCapsReader(CocoReader):
    """Pair records, ten captions an image where they are public."""

    format = "nocaps"
    files = re.compile(r"nocaps_((?:val|test).*)\.json", re.I)

    def source_of(self, image: CocoImage) -> str:
        return image.domain or ""


def _split(part: str) -> str:
    """Of ``train2014``, ``val2017``, ``val_4500`` … the word that is a split, else "train"."""
    match = re.search(r"train|val|test", part.lower())
    return match[0] if match else "train"


class KarpathySentence(BaseModel):
    raw: StrictStr


class KarpathyImage(BaseModel):
    """An element of ``images``."""

    filename: ImageName
    filepath: ImageName | Literal[""] | None = None
    split: Literal["train", "restval", "val", "test"]
    sentences: list[KarpathySentence]


class KarpathyOptions(ImagesOptions):
    """Attributes:
    merge_restval: count ``restval``, the rest of COCO's validation images, as ``train``, as most papers do.
    """

    merge_restval: bool = False


class KarpathyReader(CaptionFilesReader[KarpathyOptions]):
    """Pair records; ``source`` is ``coco``, ``flickr30k`` …"""

    format = "karpathy"
    options_type = KarpathyOptions
    files = re.compile(r"dataset_(coco|flickr\w+)\.json", re.I)

    def read_lists(self, name: str, part: str, value: dict[str, Any]) -> Iterator[Record | BadItem]:
        for number, element in enumerate(value.get("images", ()), start=1):
            try:
                image = validate_item(KarpathyImage, element)
            except BadValue as error:
                yield BadItem(name, 0, "bad image entry", f"images[{number - 1}]: {error}")
                continue
            path = f"{image.filepath}/{image.filename}" if image.filepath else image.filename
            captions = [sentence.raw.strip() for sentence in image.sentences]
            if not all(captions):
                detail = f"{captions.count('')} captions of {path[:120]!r} are left out"
                yield BadItem(name, 0, "empty caption", detail)
            split = "train" if self.options.merge_restval and image.split == "restval" else image.split
            dropped = ("sentences", "filename", "filepath")
            yield Record(
                id=f"{Path(name).with_suffix('').as_posix()}:{number}",
                body=CaptionedImage(path, tuple(filter(None, captions))),
                images=(self._find(path),),
                split=split,
                source=part.lower(),
                extra={key: field for key, field in element.items() if key not in dropped},
            )

    def _find(self, name: str) -> RecordImage:
        last = name.rpartition("/")[2]
        folders = ("images", "flickr30k-images", "flickr30k_images", "Flicker8k_Dataset")
        return self.images.find_first(
            [name, last, *(f"{folder}/{part}" for folder in folders for part in (name, last))], name
        )
