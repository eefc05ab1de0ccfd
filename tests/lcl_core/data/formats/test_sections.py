"""Every format converted in parts."""

import pickle

import pytest

from lcl_core.data.formats import open_reader
from lcl_core.data.records import BadItem
from lcl_core.data.shards.convert import convert_parts
from tests.lcl_core.data.expected_corpora import LAYOUTS
from tests.lcl_core.data.shards.part_sources import ShuffledRunner, contents

FILES = (
    "mmc4",
    "obelics",
    "conversations",
    "webdataset",
    "pair_folders",
    "table",
    "native",
    "coco",
    "karpathy",
    "nocaps",
)


@pytest.mark.parametrize("name", LAYOUTS)
def test_parts_of_every_format_make_the_same_shards(name, make, sample, tmp_path):
    format, write = LAYOUTS[name]
    truth = write(make, sample)
    reader = open_reader(truth.path or make.root, **truth.options)
    items = list(reader.records())
    read = [item for section in reader.sections() for item in reader.read_section(section.key)]
    assert [_id(item) for item in read] == [_id(item) for item in items]
    assert (len(reader.sections()) > 1 or reader.sections()[0].key != "") == (format in FILES)
    assert sum(reader.count_section(section.key) for section in reader.sections()) == len(items)
    for name, options in (("one", {}), ("several", {"processes": 3, "runner": ShuffledRunner})):
        convert_parts(reader, tmp_path / name, tmp_path / f"work {name}", 20_000, part_items=2, **options)
    assert contents(tmp_path / "one") == contents(tmp_path / "several")


def test_a_reader_is_sent_without_what_it_has_found(make, sample):
    LAYOUTS["MMC4"][1](make, sample)
    reader = open_reader(make.root)
    before = pickle.dumps(reader)
    assert list(reader.records())
    assert pickle.dumps(reader) == before


def test_a_file_that_changes_changes_its_stamp(make):
    for name in ("a.csv", "b.csv"):
        make.file(name, "image,caption\nx.png,an x\n")
    reader = open_reader(make.root, "table")
    before = {section.key: section.stamp for section in reader.sections()}
    make.file("b.csv", "image,caption\nx.png,an x\ny.png,a y\n")
    after = {section.key: section.stamp for section in reader.sections()}
    assert {key for key in before if before[key] != after[key]} == {"b.csv"}


def _id(item):
    return item if isinstance(item, BadItem) else (item.id, item.body, item.extra)
