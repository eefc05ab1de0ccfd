"""Records made on the spot, and their shards."""

import io
from functools import partial
from typing import ClassVar

import pytest
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.data import ImageSegment, TextSegment
from lcl_core.data.records import (
    BadItem,
    CaptionedImage,
    ImageMatch,
    MatchedDocument,
    Record,
    RecordImage,
    SequenceDocument,
)
from lcl_core.data.shards.convert import convert


def packed(colour, kind="PNG", size=(8, 8)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def refuse(name):
    raise UserError("it is not there", code="file_missing", file=name)


class Make:
    """Records with one-coloured images. An image's name says what it is: ``red.png``, ``gone.png``, ``bad.png``."""

    COLOURS: ClassVar = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    packed = staticmethod(packed)

    @classmethod
    def record_image(cls, name):
        stem, _, extension = name.rpartition("/")[2].partition(".")
        if stem == "gone":
            return RecordImage(name, partial(refuse, name))
        if stem == "bad":
            return RecordImage(name, lambda: b"no image")
        kind = {"jpg": "JPEG"}.get(extension, extension.upper())
        return RecordImage(name, partial(packed, cls.COLOURS[stem.partition("-")[0]], kind))

    @classmethod
    def matched(cls, id, sentences, *matches, **more):
        body = MatchedDocument(tuple(sentences), tuple(ImageMatch(*match) for match in matches))
        names = dict.fromkeys(name for name, _, _ in matches)
        return Record(id, body, tuple(cls.record_image(name) for name in names), **more)

    @classmethod
    def sequence(cls, id, *parts, **more):
        """Parts with a dot in them are images."""
        segments = tuple(ImageSegment(part) if "." in part else TextSegment(part) for part in parts)
        names = dict.fromkeys(part for part in parts if "." in part)
        return Record(id, SequenceDocument(segments), tuple(cls.record_image(name) for name in names), **more)

    @classmethod
    def pair(cls, id, image, *captions, labels=None, **more):
        return Record(id, CaptionedImage(image, captions, labels or {}), (cls.record_image(image),), **more)

    @classmethod
    def mixed(cls):
        """Two matched documents, a sequence, three pairs, a bad line."""
        return [
            cls.matched("m0", ["a red square", "so is this"], ("red.png", 0, 0.5), ("green.jpg", 1, 0.3)),
            cls.pair("p0", "red.png", "red", "a red square", labels={"colour": "red"}, source="s"),
            cls.sequence("s0", "before", "blue.webp", "between", "red.png", "after", extra={"url": "u"}),
            BadItem("lines.jsonl", 3, "the line is not JSON", "at 7"),
            cls.pair("p1", "green.png", "green", split="val"),
            cls.matched("m1", ["a blue square"], ("blue.png", 0, 0.9), split="val_docs"),
            cls.pair("p2", "blue.png", "blue", source="t"),
        ]


@pytest.fixture
def make():
    return Make


@pytest.fixture
def shards(tmp_path):
    """Convert records to a fresh folder."""

    def call(records, name="shards", **options):
        convert(records, tmp_path / name, **options)
        return tmp_path / name

    return call
