"""A corpus that ends the process that reads some of its images."""

import os
from functools import partial

import pytest

from lcl_core.data.records import CaptionedImage, Record, RecordImage
from lcl_core.parts import Section


class DeadlySource:
    """Captioned images; those with a deadly name end whoever reads them."""

    def __init__(self, names, data):
        self._names, self._data = names, data

    def sections(self):
        return [Section("pairs.jsonl")]

    def count_section(self, key):
        return len(self._names)

    def read_section(self, key, start=0):
        for number, name in list(enumerate(self._names, 1))[start:]:
            load = partial(os._exit, 9) if name.startswith("deadly") else partial(bytes, self._data)
            yield Record(f"{key}:{number}", CaptionedImage(name, (str(number),)), (RecordImage(name, load),))


@pytest.fixture
def deadly(kit):
    return lambda names: DeadlySource(names, kit.png())
