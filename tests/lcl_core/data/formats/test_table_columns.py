"""Columns of classes in files of the Hub."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from lcl_core.data.formats import open_reader


def hub_features(**features: Any) -> dict[bytes, bytes]:
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_classes_of_hugging_face_have_their_names(make: Any, walk: Any, sample_images: list[bytes], kind: str) -> None:
    """CIFAR-100's columns: a label is recognised by its feature, its number becomes a name, -1 is none."""
    columns = {
        "img": ["a.webp", "b.webp", "c.webp", "a.webp"],
        "fine_label": pa.array([0, 2, -1, 3]),
        "coarse_label": pa.array([1, 0, 1, None], pa.int8()),
        "size": [3, 4, 5, 6],
    }
    features = {
        "fine_label": {"names": ["ant", "crane", "crane", "bee"], "_type": "ClassLabel"},
        "coarse_label": {"names": {"0": "bird", "1": "insect"}, "_type": "ClassLabel"},
        "size": {"dtype": "int64", "_type": "Value"},
    }
    table = pa.table(columns).replace_schema_metadata(hub_features(**features))
    getattr(make, kind)(f"train-00000-of-00001.{kind}", table)
    reader = open_reader(make.root)
    records, bad = walk(reader)
    assert (reader.format, bad) == ("table", [])
    assert [record.body.labels for record in records] == [
        {"fine_label": "ant", "coarse_label": "insect"},
        {"fine_label": "crane (2)", "coarse_label": "bird"},
        {"coarse_label": "insect"},
        {"fine_label": "bee"},
    ]
    assert records[0].extra == {"size": 3}
    (one, *_), _ = walk(open_reader(make.root, labels=["coarse_label"]))
    assert (one.body.labels, one.extra) == ({"coarse_label": "insect"}, {"size": 3, "fine_label": 0})


def test_a_number_beyond_the_classes(make: Any, walk: Any, sample_images: list[bytes]) -> None:
    table = pa.table({"image": ["a.webp", "b.webp"], "label": [0, 2]})
    make.parquet("t.parquet", table.replace_schema_metadata(hub_features(label={"names": ["ant", "bee"]})))
    (record,), (bad,) = walk(open_reader(make.root))
    assert record.body.labels == {"label": "ant"}
    assert (bad.line, bad.detail) == (2, "'label' has 2, which is none of its 2 classes")


@pytest.mark.parametrize(
    "metadata",
    [
        b"[" * 100_000, b"\xff", b"7", b'{"info": []}', b'{"info": {"features": {"label": {"names": [1]}}}}',
        b'{"info": {"features": {"label": {"names": {"1": "ant"}}}}}',
        b'{"info": {"features": {"label": {"names": ["ant"], "_type": "Other"}}}}', b'{"info": {"features": [7]}}',
        b'{"info": {"features": {"label": null, "image": {"names": null}}}}',
    ],
)  # fmt: skip
def test_malformed_names_of_classes_count_as_absent(
    make: Any, walk: Any, sample_images: list[bytes], metadata: bytes
) -> None:
    table = pa.table({"image": ["a.webp"], "label": [0]}).replace_schema_metadata({b"huggingface": metadata})
    make.parquet("t.parquet", table)
    (record,), bad = walk(open_reader(make.root))
    assert (record.body.labels, bad) == ({"label": "0"}, [])
