"""JSON-lines files, line by line."""

import math
import tracemalloc

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data import jsonl as lines_module
from lcl_core.data.jsonl import JsonLines


def lines(data="", **files):
    files = files or {"x.jsonl": data}
    return JsonLines(files, lambda value: None if "bad" not in value else "bad is not allowed", dict)


@pytest.mark.parametrize(
    "data",
    [
        b'{"n": 0}\n{"n": 1}\n',
        b'{"n": 0}\n{"n": 1}',
        b'{"n": 0}\r\n{"n": 1}\r\n',
        b'\n\n{"n": 0}\n\r\n\n{"n": 1}\n\n',
        b'\xef\xbb\xbf{"n": 0}\n{"n": 1}\n',
    ],
)
def test_line_ends_and_blank_lines(data):
    assert [row["n"] for row in lines(data)] == [0, 1]
    assert lines(data)[-1] == {"n": 1}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (
            rb'{"t": "half \ud83d", "\uDE00 k": ["\ud83d", 1.5]}',
            {"t": "half \ufffd", "\ufffd k": ["\ufffd", 1.5]},
        ),
        (rb'{"t": "\ud83d\ude00"}', {"t": "\U0001f600"}),
        (rb'{"t": "\\ud83d"}', {"t": "\\ud83d"}),
        (rb'{"t": "\ud83d\ud83d\ude00"}', {"t": "\ufffd\U0001f600"}),
    ],
)
def test_half_a_surrogate_pair_is_replaced(line, value):
    assert lines(line)[0] == value


def test_nan_is_kept():
    assert math.isnan(lines(b'{"n": NaN}\n')[0]["n"])


@pytest.mark.parametrize("data", [b"", b"\n", b"\r\n\n"])
def test_an_empty_file_has_no_lines(data):
    assert len(lines(data)) == 0
    assert list(lines(data)) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not JSON"),
        (b"x", "not JSON"),
        (b"   ", "not JSON"),
        (b'{"n": 1} {"n": 2}', "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"t": "\xff"}', "not UTF-8"),
        (b'{"t": "\xed\xa0\x80"}', "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b'{"n": ' + b"9" * 10_000 + b"}", "not JSON"),
        (b'{"bad": 1}', "bad is not allowed"),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_read(line, message):
    rows = lines(b'{"n": 0}\n\n' + line + b'\n{"n": 1}\n')
    assert [rows[0], rows[2]] == [{"n": 0}, {"n": 1}]
    with pytest.raises(UserError, match=message) as caught:
        rows[1]
    assert (caught.value.code, caught.value.file, caught.value.line) == ("bad_document", "x.jsonl", 3)


@pytest.mark.parametrize("length", [0, 1, 8, 9, 10, 11, 12, 13, 100])
@pytest.mark.parametrize("end", [b"", b"\n", b'\n{"n": 1}\n'])
def test_a_huge_line_is_refused_unparsed(monkeypatch, length, end):
    monkeypatch.setattr(lines_module, "MAX_LINE_BYTES", 16)
    rows = lines(b'{"t": "' + b"x" * length + b'"}' + end)
    if length + 9 <= 16:
        assert rows[0] == {"t": "x" * length}
    else:
        with pytest.raises(UserError, match="longer than 16 bytes"):
            rows[0]
    assert list(rows)[1:] == [{"n": 1}] * (len(end) > 1) if length + 9 <= 16 else len(rows) == 1 + (len(end) > 1)
    assert len(end) < 2 or rows.line_number(1) == 2


def test_several_files_are_one_sequence():
    both = lines(a=b'{"n": 0}\n', b=b"", c=b'\n{"n": 1}\n{"n": 2}\n')
    assert [row["n"] for row in both] == [both[n]["n"] for n in range(3)] == [0, 1, 2]
    assert [both.location(n) for n in range(3)] == ["a:1", "c:2", "c:3"]
    assert [both.find(location) for location in ("a:1", "c:2", "c:3")] == [0, 1, 2]
    assert [both.find(absent) for absent in ("c:1", "a:2", "b:1", "d:1", "c:x", "c:", "c", "")] == [None] * 8
    assert both.find("c:" + "9" * 290) is None
    assert both[-1]["n"] == 2
    last = both.choose([0, 2])
    assert [last[1]["n"], last.location(1), last.find("c:3"), last.find("c:2")] == [2, "c:3", 1, None]
    for outside in (3, -4):
        with pytest.raises(IndexError):
            both[outside]


def test_lines_are_numbered_with_the_blank_ones():
    rows = lines(b'\n\r\n{"n": 0}\n\r\n\n{"n": 1}\r\n\n{"n": 2}')
    assert [row["n"] for row in rows] == [0, 1, 2]
    assert [rows.line_number(index) for index in range(3)] == [3, 6, 8]


def test_blank_lines_take_no_memory():
    data = b"\n" * (1 << 16) + b'{"n": 0}'
    tracemalloc.start()
    try:
        rows = lines(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 17
    finally:
        tracemalloc.stop()
    assert (len(rows), rows.line_number(0)) == (1, (1 << 16) + 1)
