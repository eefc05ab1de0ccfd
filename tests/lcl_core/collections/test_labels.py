"""Types of labels, and filters by them, against a reference that reads the records one by one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from lcl_core.collections.changes import ChangeRecord, Delta
from lcl_core.collections.collection import Collection
from lcl_core.collections.file_format import ITEMS, stable_hash64
from lcl_core.collections.labels import LabelChange, LabelIndex, infer_type, parse_where, read_number
from lcl_core.collections.writer import CollectionItem
from lcl_core.common.errors import UserError
from tests.lcl_core.collections.building import build_collection

DIM = 4
YEARS = ["1985", "1990", "1990.5", "2001", "-3", "1e3", ""]
DAYS = ["2020-02-28", "2020-02-29", "2020-02-29T23:59:59", "2020-03-01", "2020-02-29T23:30:00-01:00", "1999-12-31", ""]
TAGS = ['["red"]', '["red", "round"]', '["green", "round"]', "[]", '["a; b"]', '["red", "green", "round"]', "[]"]
TYPES = {"year": "number", "day": "date", "tags": "set"}


def images(years=YEARS):
    return [
        CollectionItem(
            f"{row}.png", b"", "image/png", (f"text {row // 2}",),
            {"year": year, "day": day, "tags": tags, "kind": "ab"[row % 2]} if row else {"year": year, "tags": tags},
        )
        for row, (year, day, tags) in enumerate(zip(years, DAYS, TAGS, strict=True))
    ]  # fmt: skip


def vectors(count):
    return np.random.default_rng(0).normal(size=(count, DIM)).astype(np.float32)


def build(place, items, **options):
    texts = {caption: vectors(1)[0] for item in items for caption in item.captions}
    build_collection(place, items, vectors(len(items)), texts, name="it", encoder_hash="e" * 64, **options)
    return Collection.open(place, verify=True)


def addition(number, item):
    key = f"img_{stable_hash64(item.image):016x}"
    record = {"id": key, "image": item.image, "captions": list(item.captions), "labels": dict(item.labels)}
    record |= {"split": item.split, "source": item.source, "media_type": item.media_type}
    return ChangeRecord(number, key, record, vectors(1).tobytes(), vectors(len(item.captions)).tobytes())


def found(collection, where, target="images"):
    hits = collection.search(np.ones(DIM), 100, target, where)
    return sorted(hit.metadata.get("image") or hit.metadata["text"] for hit in hits)


FILTERS: list[tuple[dict[str, Any], list[int]]] = [
    ({"year": "1990"}, [1]),
    ({"year": ["1990", "1985"]}, [0, 1]),
    ({"year": 1000}, [5]),
    ({"year": {"gte": 1990}}, [1, 2, 3]),
    ({"year": {"gt": 1990}}, [2, 3]),
    ({"year": {"gte": "1990", "lt": 1990.5}}, [1]),
    ({"year": {"lte": 1990}}, [0, 1, 4, 5]),
    ({"year": {"gt": 0, "gte": -5, "lte": 1990, "lt": 1990}}, [0, 5]),
    ({"year": {"gt": 5000}}, []),
    ({"day": {"gte": "2020-02-29"}}, [2, 3, 4, 1]),
    ({"day": {"lte": "2020-02-29"}}, [1, 2, 5]),
    ({"day": {"gt": "2020-02-29"}}, [3, 4]),
    ({"day": {"lt": "2020-02-29"}}, [5]),
    ({"day": {"gt": "2020-02-29T23:59:58", "lte": "2020-02-29T23:59:59Z"}}, [2]),
    ({"day": "2020-03-01"}, [3]),
    ({"tags": "red"}, [0, 1, 5]),
    ({"tags": ["green", "a; b"]}, [2, 4, 5]),
    ({"tags": '["red", "round"]'}, [1]),
    ({"tags": {"any": ["red", "green"]}}, [0, 1, 2, 5]),
    ({"tags": {"all": ["red", "round"]}}, [1, 5]),
    ({"tags": {"any": ["green", "a; b"], "all": ["round"]}}, [2, 5]),
    ({"tags": {"all": ["red", "blue"]}}, []),
    ({"kind": "b", "year": {"gte": 1990}}, [1, 3]),
    ({"kind": []}, []),
    ({"year": {"none": ["1990", "1985"]}}, [2, 3, 4, 5, 6]),
    ({"year": {"gte": 1990, "none": ["1990"]}}, [2, 3]),
    ({"tags": {"none": ["red"]}}, [2, 3, 4, 6]),
    ({"kind": {"none": ["a"]}}, [0, 1, 3, 5]),
    ({"tags": {"any": ["red"], "none": ["round"]}}, [0]),
    ({"kind": {"none": ["b"]}, "year": {"gte": 1990}}, [2]),
]
FILTERS = [(where, sorted(rows)) for where, rows in FILTERS]


@pytest.mark.parametrize(("where", "rows"), FILTERS, ids=[json.dumps(where) for where, _ in FILTERS])
def test_a_filter_finds_the_same_in_files_and_among_added_images(tmp_path, where, rows):
    items = images()
    whole = build(tmp_path / "whole", items)
    assert {label: whole.label_types()[label] for label in TYPES} == TYPES
    expected = [f"{row}.png" for row in rows]
    assert found(whole, where) == expected
    assert found(whole, where, "texts") == sorted({f"text {row // 2}" for row in rows})
    half = build(tmp_path / "half", items[:4])
    changes = [addition(number, item) for number, item in enumerate(items[4:], 1)]
    changed = half.with_delta(Delta().with_changes(changes))
    assert found(changed, where) == expected
    assert found(changed, where, "texts") == sorted({f"text {row // 2}" for row in rows})
    if "day" not in where and "kind" not in where:
        empty = build(tmp_path / "none", []).with_delta(Delta().with_changes(
            [addition(number, item) for number, item in enumerate(items, 1)]
        ))  # fmt: skip
        assert found(empty, where) == expected, "types of labels that only added images have"


@pytest.mark.parametrize(
    ("labels", "change", "expected"),
    [
        ({}, LabelChange({"kind": "b"}, {}, {}), {"kind": "b"}),
        ({"kind": "a", "year": "1990"}, LabelChange({"kind": None, "year": "1991"}, {}, {}), {"year": "1991"}),
        ({}, LabelChange({"kind": None}, {}, {"tags": ["x"]}), {}),
        ({}, LabelChange({"tags": "x; y"}, {}, {}), {"tags": '["x", "y"]'}),
        ({}, LabelChange({"new": ["x"]}, {}, {}), {"new": '["x"]'}),
        ({"tags": "x; y"}, LabelChange({}, {"tags": ["y", "ü"]}, {"tags": ["x"]}), {"tags": '["y", "ü"]'}),
        ({"tags": '["x"]'}, LabelChange({}, {}, {"tags": ["x"]}), {}),
        ({"tags": '["x"]'}, LabelChange({}, {"tags": ["y"]}, {"tags": ["y"]}), {"tags": '["x"]'}),
    ],
)
def test_a_change_of_labels_keeps_sets_as_lists(labels, change, expected):
    change.check(TYPES)
    assert change.apply(labels, TYPES) == expected


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (LabelChange({"year": "soon"}, {}, {}), "labels.year"),
        (LabelChange({"day": ["2020-01-01"]}, {}, {}), "labels.day"),
        (LabelChange({}, {"kind": ["x"]}, {}), "add.kind"),
        (LabelChange({}, {}, {"year": ["1990"]}), "remove.year"),
    ],
)
def test_a_change_that_a_type_does_not_admit_names_the_label(change, field):
    with pytest.raises(UserError) as caught:
        change.check({**TYPES, "kind": "text"})
    assert (caught.value.code, caught.value.field) == ("invalid_value", field)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "-2.5", "1e3", ""], "number"),
        (["1", "two"], "text"),
        (["007"], "text"),
        (["1_000"], "text"),
        (["nan", "1"], "text"),
        (["1e999"], "text"),
        (["2020-01-01", "2020-01-01T10:00:00Z"], "date"),
        (["2020-13-01"], "text"),
        (["20200101"], "number"),
        (["2020-W01-1"], "text"),
        (['["a"]', '["b", "c"]'], "set"),
        (['["a"]', "b"], "text"),
        (["[1]"], "text"),
        (["", " "], "text"),
        ([], "text"),
    ],
)
def test_a_type_is_that_of_all_values(values, expected):
    assert infer_type(values) == expected


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({"kind": {"gte": 1}}, "text.*a value or a list of values"),
        ({"kind": 1}, "text.*a value or a list of values"),
        ({"year": {"gte": "soon"}}, "number.*gte"),
        ({"year": {"gte": float("nan")}}, "number.*gte"),
        ({"year": {"any": ["1"]}}, "number.*gte"),
        ({"year": {}}, "number.*gte"),
        ({"year": {"from": 1}}, "number.*gte"),
        ({"day": {"gte": 2020}}, "date.*2020-01-31"),
        ({"day": 5}, "date.*2020-01-31"),
        ({"tags": {"gte": 1}}, "set.*all"),
        ({"tags": {"all": []}}, "set.*all"),
        ({"tags": {"any": "red"}}, "set.*all"),
        ({"tags": {"none": []}}, "set.*none"),
        ({"kind": {"none": "a"}}, "text.*none"),
        ({"kind": {"none": ["a"], "any": ["b"]}}, "text.*none"),
        ({"year": {"none": [1990]}}, "number.*none"),
    ],
)
def test_a_filter_that_does_not_fit_names_label_type_and_forms(where, words):
    with pytest.raises(UserError, match=words) as caught:
        parse_where(where, {"kind": "text", **TYPES})
    label = next(iter(where))
    assert (caught.value.code, caught.value.field) == ("invalid_value", f"where.{label}")
    assert label in caught.value.message


def test_a_stated_type_is_checked_and_kept(tmp_path):
    collection = build(tmp_path / "it", images(), label_types={"year": "text"})
    assert collection.label_types()["year"] == "text"
    assert collection.stated_types() == {"year": "text"}
    with pytest.raises(UserError, match=r"'year'.*'1990\.5'.*date") as caught:
        build(tmp_path / "other", images(["1990.5"] * 7), label_types={"year": "date"})
    assert (caught.value.code, caught.value.field) == ("invalid_value", "label_types.year")
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_a_stated_set_is_split_at_semicolons(tmp_path):
    items = [CollectionItem("a", b"", "x", (), {"c": "red; green"}), CollectionItem("b", b"", "x", (), {"c": "red"})]
    collection = build(tmp_path / "it", items, label_types={"c": "set"})
    assert collection.label_values()["c"] == ["red", "green"]
    assert found(collection, {"c": {"all": ["red", "green"]}}) == ["a"]
    assert found(collection, {"c": "red"}) == ["a", "b"]
    assert found(collection, {"c": "red; green"}) == ["a"], "as before there were sets"


def test_what_is_damaged_is_named_and_not_taken_over(tmp_path):
    build(tmp_path / "it", images())
    file = tmp_path / "it" / ITEMS
    file.write_bytes(file.read_bytes().replace(b"number", b"nomber"))
    with pytest.raises(UserError, match=f"{ITEMS} is damaged") as caught:
        Collection.open(tmp_path / "it", verify=True)
    assert caught.value.code == "collection_changed"
    file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))
    with pytest.raises(UserError, match=f"{ITEMS} is damaged") as caught:
        Collection.open(tmp_path / "it")
    assert caught.value.code == "collection_changed"


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"year": "7"}, {"year": "7"}),
        ({"year": ""}, {"year": ""}),
        ({"kind": "new"}, {"kind": "new"}),
        ({"unseen": "x"}, {"unseen": "x"}),
        ({"unseen": ["x"]}, {"unseen": '["x"]'}),
        ({"unseen": "[]"}, {"unseen": "[]"}),
        ({"tags": "red; blue"}, {"tags": '["red", "blue"]'}),
        ({"tags": ["red"]}, {"tags": '["red"]'}),
        ({"new": "x; y"}, {"new": '["x", "y"]'}),
        ({"n": "any"}, {"n": "any"}),
    ],
)
def test_what_is_added_later_is_stored_as_its_type_is(tmp_path, given, stored):
    later = CollectionItem("later.png", b"", "image/png", (), {"new": '["a"]', "n": "1"})
    collection = build(tmp_path / "it", images()).with_delta(Delta().with_changes([addition(1, later)]))
    assert collection.stored_labels(given, "items.3") == stored


def test_what_is_added_later_must_fit_the_type(tmp_path):
    later = CollectionItem("later.png", b"", "image/png", (), {"n": "1"})
    collection = build(tmp_path / "it", images()).with_delta(Delta().with_changes([addition(1, later)]))
    types = {**TYPES, "n": "number"}
    bad: list[tuple[str, str | list[str]]] = [("year", "soon"), ("day", "1990"), ("year", ["1"]), ("n", ["1"])]
    for label, value in bad:
        with pytest.raises(UserError, match=f"'{label}' is a {types[label]}") as caught:
            collection.stored_labels({label: value}, "items.3")
        assert (caught.value.code, caught.value.field) == ("invalid_value", f"items.3.labels.{label}")


def test_a_value_that_does_not_fit_is_in_no_range(tmp_path):
    """Changes that were made while an index run inferred the type of their label."""
    late = CollectionItem("late.png", b"", "image/png", (), {"year": "soon"})
    collection = build(tmp_path / "it", images()).with_delta(Delta().with_changes([addition(1, late)]))
    assert "late.png" not in found(collection, {"year": {"gte": -100}})
    assert found(collection, {"year": "soon"}) == ["late.png"]


def test_ranges_are_exact_at_their_ends():
    near = [0.1, float(np.nextafter(0.1, 1)), 0.3, 2**53, 2**53 + 2, 1.7e308]
    index = LabelIndex.of([{"n": repr(value)} for value in near], {"n": "number"})
    for bound in near:
        for name, holds in (
            ("gte", np.greater_equal), ("gt", np.greater), ("lte", np.less_equal), ("lt", np.less),
        ):  # fmt: skip
            mask = index.mask(parse_where({"n": {name: bound}}, {"n": "number"}))
            assert mask.tolist() == holds(np.array(near), bound).tolist()
    assert read_number(" 1") is None


def test_values_of_a_set_are_those_of_visible_images(tmp_path):
    collection = build(tmp_path / "it", images())
    assert collection.label_values()["tags"] == ["red", "round", "green", "a; b"]
    gone = ChangeRecord(1, f"img_{stable_hash64('4.png'):016x}")
    changed = collection.with_delta(Delta().with_changes([gone]))
    assert changed.label_values()["tags"] == ["red", "round", "green"]
