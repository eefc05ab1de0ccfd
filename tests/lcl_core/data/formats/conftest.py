"""The layouts of every dataset as fixtures, and a walk that makes sure of what every reader promises."""

import json
import zipfile
from functools import partial

import pytest

from lcl_core.data.records import BadItem, Record
from tests.lcl_core.data.corpus_layouts import Maker, Sample


@pytest.fixture(scope="session")
def sample(sample_zip):
    with zipfile.ZipFile(sample_zip) as archive:
        yield Sample(archive)


@pytest.fixture
def make(tmp_path):
    return Maker(tmp_path / "corpus")


@pytest.fixture
def sample_images(make, sample):
    """a.webp, b.webp, c.webp in the folder."""
    data = [sample.image(pair["image"]) for pair in sample.pairs[:3]]
    make.files(".", {f"{name}.webp": part for name, part in zip("abc", data, strict=True)})
    return data


@pytest.fixture(scope="session")
def walk():
    """All records and all bad items of a reader, after making sure that a second walk gives the same."""

    def walked(reader):
        items = list(reader.records())
        assert [_comparable(item) for item in items] == [_comparable(item) for item in reader.records()]
        records = [item for item in items if isinstance(item, Record)]
        assert len({record.id for record in records}) == len(records), "ids must be unique"
        for record in records:
            _assert_sound(record)
        return records, [item for item in items if isinstance(item, BadItem)]

    return walked


def _comparable(item):
    if isinstance(item, BadItem):
        return item
    names = [image.name for image in item.images]
    return (item.id, item.body, names, item.split, item.source, json.dumps(item.extra, allow_nan=False))


def _assert_sound(record):
    """Images are those that the body names, all text can be written, and loaders can be sent to a process."""
    names = [image.name for image in record.images]
    assert len(set(names)) == len(names)
    body = record.body
    if hasattr(body, "matches"):
        named = {match.image for match in body.matches}
        assert all(0 <= match.sentence < len(body.sentences) for match in body.matches)
    elif hasattr(body, "segments"):
        named = {segment.name for segment in body.segments if hasattr(segment, "name")}
    else:
        named = {body.image}
    assert named == set(names)
    repr((record.id, record.body, record.extra)).encode("utf-8")
    assert all(isinstance(image.load, partial) for image in record.images)
