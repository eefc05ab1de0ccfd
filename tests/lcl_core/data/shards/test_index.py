"""Selections without lists, and an index of any length."""

import json

import numpy as np
import pytest

from lcl_core.common.errors import UserError
from lcl_core.data.sampling.document_plan import ChunkIndex
from lcl_core.data.shards import storage as storage_module
from lcl_core.data.shards.format import BLOCK, CODE, ROW, SIMILARITY
from lcl_core.data.shards.index import (
    RecordGroup,
    RecordSelection,
    ShardChunkIndex,
    ShardFile,
    ShardIndex,
    count_blocks,
    write_index,
)
from lcl_core.data.shards.storage import LocalShardStorage

CODES = np.random.default_rng(0).integers(0, 4, 3 * BLOCK + 77).astype(CODE)


@pytest.mark.parametrize("wanted", [[0], [1, 3], [0, 1, 2, 3], [2, 0], []])
def test_selections_are_what_a_list_would_be(wanted):
    selection = RecordSelection(CODES, count_blocks(CODES, 4), wanted)
    expected = np.flatnonzero(np.isin(CODES, wanted)).tolist()
    assert len(selection) == len(expected)
    places = [*range(0, len(expected), 97), len(expected) - 1] if expected else []
    assert [selection[place] for place in places] == [expected[place] for place in places]
    assert all(selection[place - len(expected)] == expected[place] for place in places)
    for outside in (len(expected), -len(expected) - 1):
        with pytest.raises(IndexError):
            selection[outside]


def test_a_group_that_fills_no_block_is_found():
    codes = np.zeros(2 * BLOCK, CODE)
    codes[-1] = 1
    selection = RecordSelection(codes, count_blocks(codes, 2), [1])
    assert (len(selection), selection[0]) == (1, 2 * BLOCK - 1)
    assert [selection.find(record) for record in (2 * BLOCK - 1, 0, BLOCK, 2 * BLOCK)] == [0, None, None, None]


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("shards", {"name": "../other/shards/00000-00000-000.tar"}),
        ("shards", {"name": "shards/other.tar"}),
        ("shards", {"sha256": "../x"}),
        ("files", {"index/rows.bin": "../../" + "0" * 58}),
        ("files", {"/etc/passwd": "0" * 64}),
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path, part, change):
    """A corpus is opened before anybody trusts it, and its names become parts of paths."""
    write_index(tmp_path, [], [], [ShardFile("shards/00000-00000-000.tar", 1024, "0" * 64, 0)])
    header = json.loads((tmp_path / "index.json").read_text())
    ShardIndex(LocalShardStorage(tmp_path))
    (header[part][0] if part == "shards" else header[part]).update(change)
    (tmp_path / "index.json").write_text(json.dumps(header))
    with pytest.raises(UserError) as caught:
        ShardIndex(LocalShardStorage(tmp_path))
    assert caught.value.code == "corpus_unreadable"


def test_pieces_are_what_a_list_would_be():
    counts = count_blocks(CODES, 4)
    images = np.random.default_rng(1).integers(0, 9, len(CODES))
    selection = RecordSelection(CODES, counts, [1, 3])
    pieces = ShardChunkIndex(selection, lambda block: images[block * BLOCK : (block + 1) * BLOCK], 6, 3)
    listed = ChunkIndex((min(int(images[record]), 6) for record in np.flatnonzero(np.isin(CODES, [1, 3]))), 3)
    assert len(pieces) == len(listed)
    places = [*range(0, len(listed), 131), len(listed) - 1]
    assert [pieces[place] for place in places] == [listed[place] for place in places]


def test_a_header_that_is_too_large_is_not_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(storage_module, "MAX_FILE_BYTES", 1000)
    (tmp_path / "index.json").write_bytes(b" " * 1001)
    with pytest.raises(UserError, match="larger than 1,000 bytes") as caught:
        ShardIndex(LocalShardStorage(tmp_path))
    assert (caught.value.code, caught.value.file) == ("too_large", "index.json")


@pytest.mark.parametrize("part", ["rows", "groups", "blocks", "starts", "similarities"])
def test_an_index_that_was_cut_short_is_not_opened(tmp_path, part):
    """Else records would be counted, and their groups be whatever the memory held."""
    rows = np.zeros(3, ROW)
    rows["matches"] = 1
    groups = [RecordGroup("matched", "train", "")]
    write_index(tmp_path, [(rows, np.ones(3, SIMILARITY))], groups, [])
    ShardIndex(LocalShardStorage(tmp_path))
    file = tmp_path / "index" / f"{part}.bin"
    whole = file.read_bytes()
    for cut in (b"", whole[:-1], whole + b"0"):
        file.write_bytes(cut)
        with pytest.raises(UserError, match="convert the corpus again") as caught:
            ShardIndex(LocalShardStorage(tmp_path))
        assert (caught.value.code, caught.value.file) == ("corpus_unreadable", f"index/{part}.bin")
