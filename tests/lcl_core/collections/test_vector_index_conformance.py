"""What every vector index does alike: it proposes the rows that are nearest, and what it cannot do is made up for."""

from __future__ import annotations

import json
import logging
import operator
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from lcl_core.collections import vector_index
from lcl_core.collections.labels import LabelIndex, parse_where
from lcl_core.collections.vector_index import ExternalIndex, LabelSelection, nearest
from lcl_core.common.errors import UserError
from lcl_core.common.settings import Settings
from lcl_core.vector_indexes import INDEXES, TARGETS, IndexLocation, LabelSearch, VectorIndex, check_index
from tests.lcl_core.collections import file_indexes

ROWS, DIM, K, EXACT = 2400, 32, 10, 500
BACKENDS = ["flat", "hnsw", "lancedb", "lancedb-s3", "qdrant"]
PACKAGES = {"hnsw": "usearch", "lancedb": "lancedb", "qdrant": "qdrant_client"}


@dataclass
class Backend:
    """One index under test: ``open`` as another process would, ``release`` what only one process may have open."""

    name: str
    open: Callable[[], VectorIndex]
    script: str  # makes ``index`` in another process
    damage: Callable[[], None]
    release: Callable[[], None] = field(default=lambda: None)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def clustered(rows, seed):
    """Vectors about some centres, as an encoder's are, with numbers that f16 holds."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(40, DIM))
    made = centres[random.integers(40, size=rows)] + 0.5 * random.normal(size=(rows, DIM))
    return unit(made).astype(np.float16).astype(np.float32)


VECTORS, QUERIES = clustered(ROWS, 0), unit(clustered(20, 1))


def batch(start, stop, vectors=VECTORS):
    return range(start, stop), [f"img_{row:016x}" for row in range(start, stop)], vectors[start:stop]


def batches(rows=ROWS, vectors=VECTORS):
    for start in range(0, rows, 700):
        yield batch(start, min(start + 700, rows), vectors)


@pytest.fixture(params=BACKENDS)
def backend(request, tmp_path, monkeypatch):
    name = request.param.partition("-")[0]
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name], reason=f"the extra of index {name} is not installed")
    monkeypatch.setattr(vector_index, "EXACT_ROWS", EXACT)
    makers: dict[str, Callable[[], Iterator[Backend]]] = {
        "flat": lambda: in_files("flat", file_indexes.FlatIndex, tmp_path, "image_vectors.bin"),
        "hnsw": lambda: in_files("hnsw", file_indexes.HnswFileIndex, tmp_path, "image_graph.usearch"),
        "lancedb": lambda: in_lancedb(str(tmp_path / "lancedb"), lambda: scribble(tmp_path)),
        "lancedb-s3": lambda: in_lancedb(f"{(url := request.getfixturevalue('s3_bucket'))}/x", lambda: scribble(url)),
        "qdrant": lambda: in_qdrant(tmp_path, "another_process" in request.node.name, monkeypatch),
    }
    yield from makers[request.param]()


def in_files(name, index, place, file):
    script = f"""
from tests.lcl_core.collections import file_indexes
index = file_indexes.{index.__name__}(Path({str(place)!r}), {DIM})
"""
    damage = lambda: bool((place / file).write_bytes(b"no index" * 99)) or None  # noqa: E731
    yield Backend(name, lambda: index(place, DIM), script, damage)


def in_lancedb(url, damage):
    from lcl_core.collections.lancedb_index import LanceIndex

    script = f"from lcl_core.collections.lancedb_index import LanceIndex\nindex = LanceIndex({url!r}, {DIM})"
    yield Backend("lancedb", lambda: LanceIndex(url, DIM), script, damage)


def scribble(place):
    """Overwrite the files with the vectors."""
    import fsspec

    files, root = fsspec.url_to_fs(str(place))
    damaged = [path for path in files.find(root) if path.endswith(".lance") and "/data/" in path]
    assert damaged
    for path in damaged:
        files.pipe_file(path, b"no vectors" * 100)


def in_qdrant(place, on_disk, monkeypatch):
    """The client's local mode: in memory, or in a folder, which takes 10 ms a point and is open in one process."""
    from qdrant_client import QdrantClient

    from lcl_core.collections import qdrant_index

    clients: list[QdrantClient] = []

    def client(*_):
        if not clients:
            clients.append(QdrantClient(path=str(place)) if on_disk else QdrantClient(":memory:"))
        return clients[0]

    def release():
        while clients:
            clients.pop().close()

    monkeypatch.setattr(qdrant_index, "_client", client)
    script = f"""
from qdrant_client import QdrantClient
from lcl_core.collections import qdrant_index
client = QdrantClient(path={str(place)!r})
qdrant_index._client = lambda *_: client
index = qdrant_index.QdrantIndex("http://local", "qdrant_1", {DIM})
"""
    open_ = lambda: qdrant_index.QdrantIndex("http://local", "qdrant_1", DIM)  # noqa: E731
    yield Backend("qdrant", open_, script, lambda: open_().drop(), release)
    release()


def built(backend, rows=ROWS):
    index = backend.open()
    index.build("images", batches(rows))
    return index


def proposed(index, query, k, rows=(), among=False):
    return [int(row) for row in index("images", query.tolist(), k, rows, among)]


def recall(index, rows=None, k=K):
    """Share of the true neighbours among the rows that the index alone proposes."""
    listed, among = ([], False) if rows is None else ExternalIndex(index, "images", VECTORS)._row_filter(rows)
    shares = []
    for query in QUERIES:
        true = set(nearest(VECTORS, query, k, rows)[0].tolist())
        found = set(proposed(index, query, k, listed, among))
        assert rows is None or found <= set(rows.tolist())
        shares.append(len(found & true) / len(true))
    return float(np.mean(shares))


def test_what_is_found_is_ranked_as_brute_force_ranks_it(backend):
    searched = ExternalIndex(built(backend), "images", VECTORS)
    for query in QUERIES[:5]:
        everything, scores = searched.nearest(query, ROWS)
        expected, exact = nearest(VECTORS, query, ROWS)
        assert everything.tolist() == expected.tolist()
        assert np.array_equal(scores, exact)
        rows, scores = searched.nearest(query, K)
        assert np.allclose(scores, VECTORS[rows] @ query, atol=1e-6)
        assert (np.diff(scores) <= 0).all()


def test_the_index_alone_misses_few(backend):
    assert recall(built(backend)) >= 0.95


@pytest.mark.parametrize("share", [0.01, 0.3, 0.8])
@pytest.mark.parametrize("listed", [True, False], ids=["listed", "too-long-a-list"])
def test_a_filter_comes_before_the_top_k(backend, share, listed, monkeypatch):
    module = sys.modules[type(backend.open()).__module__]
    if not listed and not hasattr(module, "MAX_LISTED"):
        pytest.skip("this index takes any list")
    if not listed:
        monkeypatch.setattr(module, "MAX_LISTED", 5)
    rows = np.flatnonzero(np.random.default_rng(2).random(ROWS) < share)
    index = built(backend)
    searched = ExternalIndex(index, "images", VECTORS)
    for query in QUERIES[:5]:
        found, scores = searched.nearest(query, K, rows)
        assert len(found) == K
        assert set(found.tolist()) <= set(rows.tolist())
        assert np.allclose(scores, VECTORS[found] @ query, atol=1e-6)
    hits = [
        len(set(searched.nearest(query, K, rows)[0].tolist()) & set(nearest(VECTORS, query, K, rows)[0].tolist()))
        for query in QUERIES
    ]
    assert np.mean(hits) / K >= 0.9
    if listed and backend.name != "hnsw":  # whose filter needs many neighbours of all
        assert recall(index, rows) >= 0.9


ODD = 'it\'s \\ `odd`; "ünïcode"'
LABEL_TYPES: Any = {"year": "number", "taken": "date", "tags": "set", "an odd.name'": "text", "kind": "text"}
LABELS: list[dict[str, str]] = [
    {
        "kind": "abc"[row % 3],
        "year": ["1990", "-2.5", "1e300", "2001", "about 2000", ""][row % 6],
        "tags": json.dumps([["red"], ["red", ODD], [], ["green", "red", "blue"]][row % 4]),
        **({"taken": f"20{row % 30:02d}-02-0{1 + row % 9}"} if row % 5 else {}),
        **({"an odd.name'": ODD if row % 2 else "plain"} if row % 7 else {}),
    }
    for row in range(ROWS)
]
WHERE: list[dict[str, Any]] = [
    {"kind": "a"},
    {"kind": ["a", "c"], "year": {"gte": 1990}},
    {"kind": []},
    {"year": {"gt": -2.5, "lt": 2001}},
    {"year": {"lte": -2.5}},
    {"year": 2001},
    {"taken": {"gte": "2010-02-03", "lte": "2012-02-09"}},
    {"taken": {"lt": "2001-01-01"}},
    {"tags": ODD},
    {"tags": {"any": ["green", ODD]}, "kind": "b"},
    {"tags": {"all": ["red", "blue"]}},
    {"tags": '["red"]'},
    {"an odd.name'": ODD},
    {"an odd.name'": {"none": [ODD]}},
    {"kind": {"none": ["a", "b"]}, "taken": {"none": ["2000-02-01"], "lt": "2012-01-01"}},
    {"tags": {"none": ["green", ODD]}},
    {"tags": {"all": ["red"], "none": [ODD]}},
]


SIGNS = {"gte": operator.ge, "gt": operator.gt, "lte": operator.le, "lt": operator.lt}


def fits(label, given, value):
    """Whether a filter allows a value, without the code under test."""
    if isinstance(given, dict) and "none" in given:
        rest = {name: value for name, value in given.items() if name != "none"}
        return not fits(label, {"any": given["none"]} if label == "tags" else given["none"], value) and (
            not rest or fits(label, rest, value)
        )
    if label == "tags":
        members = set(json.loads(value))
        if not isinstance(given, dict):
            return value == given or given in members
        return bool(members & set(given.get("any", members))) and set(given.get("all", ())) <= members
    if isinstance(given, str | list):
        return value in ([given] if isinstance(given, str) else given)
    try:
        read: Any = value if label == "taken" else float(value)
    except ValueError:
        return False
    bounds = given if isinstance(given, dict) else {"gte": given, "lte": given}
    return all(SIGNS[name](read, bound) for name, bound in bounds.items())


def fitting(where):
    """bool [ROWS]."""
    found = [
        all(
            fits(label, given, labels[label]) if label in labels else isinstance(given, dict) and [*given] == ["none"]
            for label, given in where.items()
        )
        for labels in LABELS
    ]
    return np.array(found)


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
@pytest.mark.parametrize("short", [0, vector_index.SHORT_LIST])
def test_filters_by_labels_leave_what_a_reference_leaves(backend, short, monkeypatch):
    monkeypatch.setattr(vector_index, "SHORT_LIST", short)
    index, labels = backend.open(), LabelIndex.of(LABELS, LABEL_TYPES)
    index.build("images", batches(), labels)
    searched, hidden = ExternalIndex(backend.open(), "images", VECTORS), np.arange(0, ROWS, 9)
    for where in WHERE:
        filters = parse_where(where, LABEL_TYPES)
        fits = fitting(where)
        assert labels.mask(filters).tolist() == fits.tolist(), where
        for without in (np.empty(0, np.int64), hidden[fits[hidden]]):
            rows = np.setdiff1d(np.flatnonzero(fits), without)
            selection = LabelSelection(filters, without)
            found, scores = searched.nearest(QUERIES[0], ROWS, rows, selection)
            assert found.tolist() == nearest(VECTORS, QUERIES[0], ROWS, rows)[0].tolist(), where
            hits = 0
            for query in QUERIES[:5]:
                found, scores = searched.nearest(query, K, rows, selection)
                expected, _ = nearest(VECTORS, query, K, rows)
                assert set(found.tolist()) <= set(rows.tolist()), where
                assert np.allclose(scores, VECTORS[found] @ query, atol=1e-6)
                hits += len(set(found.tolist()) & set(expected.tolist())) / max(1, len(expected))
            assert hits >= 4.5 or not len(rows), where


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_an_index_with_columns_is_asked_by_labels(backend, monkeypatch):
    """It alone leaves what the filters leave; without the columns, or with too much to leave out, it says so."""
    if backend.name in ("flat", "hnsw"):
        pytest.skip("this index has no columns")
    index, labels = backend.open(), LabelIndex.of(LABELS, LABEL_TYPES)
    index.build("images", batches(200), labels)
    assert isinstance(index, LabelSearch)
    where = {"kind": "a", "year": {"gte": 1990}, "tags": {"all": ["red"]}}
    filters, rows = parse_where(where, LABEL_TYPES), np.flatnonzero(fitting(where)[:200]).tolist()
    query = QUERIES[0].tolist()
    assert sorted(index.search_labels(query, 200, filters, [], len(rows)) or ()) == rows
    assert sorted(index.search_labels(query, 200, filters, rows[:2], len(rows) - 2) or ()) == rows[2:]
    unknown = parse_where({"size": "1"}, {"size": "text"})
    assert index.search_labels(query, 9, unknown, [], 9) is None
    monkeypatch.setattr(sys.modules[type(index).__module__], "MAX_LISTED", 1)
    monkeypatch.setattr(vector_index, "SHORT_LIST", 0)
    assert index.search_labels(query, 9, filters, rows[:2], 9) is None
    index.build("images", batches(200))  # as before there were columns
    assert backend.open().search_labels(query, 9, filters, [], 9) is None  # type: ignore[attr-defined]
    searched = ExternalIndex(backend.open(), "images", VECTORS[:200])
    found, _ = searched.nearest(QUERIES[0], 200, np.array(rows), LabelSelection(filters, np.empty(0, np.int64)))
    assert sorted(found.tolist()) == rows


def test_no_row_is_proposed_from_none(backend):
    assert proposed(built(backend, 50), QUERIES[0], 5, [], among=True) == []


def test_images_and_texts_are_apart(backend):
    index = built(backend, 60)
    index.build("texts", [batch(0, 20, -VECTORS)])
    assert proposed(index, VECTORS[7], 1) == [7]
    assert list(index("texts", (-VECTORS[7]).tolist(), 1, (), False)) == [7]
    index.build("texts", [batch(0, 10, VECTORS)])  # anew
    assert sorted(index("texts", VECTORS[7].tolist(), 10, (), False)) == list(range(10))
    index.drop()
    for target in TARGETS:
        with pytest.raises(UserError) as caught:
            backend.open()(target, VECTORS[0].tolist(), 1, (), False)
        assert caught.value.code == "index_unusable"
    index.drop()  # there is nothing to remove


def test_another_process_sees_what_was_built_anew(backend, tmp_path):
    index = built(backend, 200)
    np.save(tmp_path / "all.npy", VECTORS)
    backend.release()
    script = f"""
import sys
from pathlib import Path
import numpy as np
from lcl_core.vector_indexes import INDEXES, IndexLocation
vectors = np.load({str(tmp_path / "all.npy")!r})
{backend.script}
if sys.argv[1] == "write":
    index.build("images", [(range(240), [f"img_{{row:016x}}" for row in range(240)], vectors[:240])])
else:
    print([int(row) for row in index("images", vectors[237].tolist(), 1, (), False)])
"""
    for act in ("write", "read"):
        command = [sys.executable, "-c", script, act]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "[237]"
    del index
    assert proposed(backend.open(), VECTORS[239], 1) == [239]


@pytest.mark.parametrize("what", ["missing", "damaged", "of-other-vectors"])
def test_what_cannot_be_used_is_made_up_for(backend, what, caplog):
    vectors = VECTORS
    if what == "damaged":
        built(backend)
        backend.damage()
    elif what == "of-other-vectors":
        built(backend)
        vectors = VECTORS[:-1][::-1].copy()
    else:
        with suppress(UserError):
            backend.open().drop()
    searched = ExternalIndex(backend.open(), "images", vectors)
    queries = [VECTORS[-1], *QUERIES[:3]]
    with caplog.at_level(logging.WARNING):
        for query in queries:
            expected, exact = nearest(vectors, query, K)
            rows, scores = searched.nearest(query, K)
            if what != "of-other-vectors":
                assert rows.tolist() == expected.tolist()
                assert np.array_equal(scores, exact)
            assert np.allclose(scores, vectors[rows] @ query, atol=1e-6)
    warnings = [record for record in caplog.records if "cannot be used" in record.getMessage()]
    assert len(warnings) == 1, "once an index, not once a search"


@pytest.mark.parametrize("name", ["lancedb", "qdrant"])
def test_a_missing_extra_is_named(name, tmp_path, monkeypatch):
    monkeypatch.setattr("lcl_core.vector_indexes.find_spec", lambda _: None)
    with pytest.raises(UserError, match=rf"pip install 'lcl\[{name}\]'") as caught:
        check_index(name, IndexLocation(dim=DIM, directory=tmp_path))
    assert (caught.value.code, caught.value.field) == ("missing_extra", "index")
    for package in ("lancedb", "qdrant_client", "qdrant_client.http.exceptions"):
        monkeypatch.setitem(sys.modules, package, None)
    settings = Settings(home=tmp_path, qdrant_url="http://127.0.0.1:9")
    index = INDEXES[name].index_class().at(IndexLocation("qdrant_1", DIM, tmp_path, settings=settings))
    with pytest.raises(UserError, match=rf"lcl\[{name}\]"):
        index.build("images", batches())
    rows, _ = ExternalIndex(index, "images", VECTORS).nearest(QUERIES[0], K)
    assert rows.tolist() == nearest(VECTORS, QUERIES[0], K)[0].tolist()


def test_qdrant_needs_a_server(tmp_path):
    pytest.importorskip("qdrant_client", reason="the extra of index qdrant is not installed")
    with pytest.raises(UserError, match="LCL_QDRANT_URL") as caught:
        check_index("qdrant", IndexLocation(settings=Settings(home=tmp_path)))
    assert (caught.value.code, caught.value.field) == ("qdrant_unavailable", "index")


@pytest.mark.parametrize("url", ["qdrant:6333", "file:///srv/qdrant", "http://key@host:6333"])
def test_the_address_of_a_server_is_one(tmp_path, url):
    with pytest.raises(ValueError, match="LCL_QDRANT_API_KEY"):
        Settings(home=tmp_path, qdrant_url=url)


def test_a_server_that_is_away_is_an_index_that_cannot_be_used(tmp_path):
    pytest.importorskip("qdrant_client", reason="the extra of index qdrant is not installed")
    settings = Settings(home=tmp_path, qdrant_url="http://127.0.0.1:9", qdrant_api_key="secret word")  # type: ignore[arg-type]
    index = INDEXES["qdrant"].index_class().at(IndexLocation("qdrant_1", DIM, settings=settings))
    with pytest.raises(UserError) as caught:
        index("images", QUERIES[0].tolist(), K, (), False)
    assert caught.value.code == "index_unusable"
    assert "secret" not in caught.value.message
    with pytest.raises(UserError) as failed:
        index.build("images", batches())
    assert (failed.value.code, failed.value.field) == ("qdrant_failed", "index")
