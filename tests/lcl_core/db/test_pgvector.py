"""Collections that PostgreSQL searches: what it finds is what the files say, and tables come and go with their row."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import create_engine, inspect, make_url, text
from sqlalchemy.orm import Session

from lcl_core.collections.collection import Collection
from lcl_core.collections.delta import CollectionWithDelta, Delta
from lcl_core.collections.file_format import stable_hash64
from lcl_core.collections.labels import LabelIndex
from lcl_core.collections.records import ChangeRecord
from lcl_core.collections.vector_index import nearest as exact_nearest
from lcl_core.collections.writer import CollectionItem, build_collection
from lcl_core.common.errors import UserError
from lcl_core.common.names import storable_text
from lcl_core.db import collections, complete_run, garbage, leases, pgvector, registry, runs
from lcl_core.db import pgvector as db_pgvector
from lcl_core.db.models import CollectionRow as Row
from lcl_core.db.models import new_id
from lcl_core.db.session import UNREACHABLE, Database
from lcl_core.specs.parsing import parse_spec
from lcl_core.vector_indexes import (
    TARGETS,
    IndexLocation,
    RangeFilter,
    SetFilter,
    TextFilter,
    VectorBatch,
    directory_batches,
)

ENCODER, DIM, ROWS, K = "e" * 64, 16, 300, 10
Settle = Callable[..., str]
on_postgres = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


VECTORS = unit(np.random.default_rng(0).normal(size=(ROWS, DIM)))
QUERIES = unit(np.random.default_rng(1).normal(size=(10, DIM)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection's directory: every image has a caption of its own, and every tenth a rare label."""
    place = tmp_path_factory.mktemp("vectors") / "collection"
    items = [
        CollectionItem(f"{row}.png", b"x", "image/png", (f"text {row}",), {"rare": "yes" if row % 10 == 0 else "no"})
        for row in range(ROWS)
    ]
    texts = {f"text {row}": -VECTORS[row] for row in range(ROWS)}
    build_collection(place, items, VECTORS, texts, name="many", encoder_hash=ENCODER)
    return place


@pytest.fixture
def end(
    database: Database, queue: Callable[..., str], claim: Callable[..., leases.Claim], made: Path, tmp_path: Path
) -> Settle:
    """Submit an index run, and end it with that directory."""

    def act(index: str = "pgvector", **facts: Any) -> str:
        spec = {"encoder": "any", "collection": "many", "index": index, "mode": "add" if facts else "replace"}
        run_dir = tmp_path / "runs" / queue("index", spec)
        shutil.copytree(made, run_dir / "artifacts" / "collection")
        found = {"path": "artifacts/collection", "encoder_hash": ENCODER, "images": ROWS, "texts": ROWS, "dim": DIM}
        outcome = complete_run.RunSucceeded({"collection": {**found, "index": index, **facts}})
        return complete_run.complete_run(database, claim(), outcome, run_dir, tmp_path, 1.0, None, Collection.open)

    return act


def row_of(database: Database) -> Row:
    with database.reading() as session:
        return registry.get_collection(session, "many")


def tables(database: Database) -> set[str]:
    return {name for name in inspect(database.engine).get_table_names() if name.startswith("vec_")}


def named(database: Database) -> set[str]:
    return {f"{row_of(database).vectors}_{target}" for target in ("images", "texts")}


def both(database: Database, made: Path) -> tuple[Collection, Collection]:
    """Searched in its files, and by PostgreSQL."""
    ask = db_pgvector.PgVectorIndex(database, str(row_of(database).vectors), DIM)
    return Collection.open(made), Collection.open(made, ask=ask)


def found(collection: Collection, **how: Any) -> list[dict[str, float]]:
    """For each query the scores by id, best first."""
    return [{hit.id: hit.score for hit in collection.search(query, **{"k": K, **how})} for query in QUERIES]


def check_same(some: list[dict[str, float]], others: list[dict[str, float]]) -> None:
    """One neighbour or another may be missed (an index is made with chance), but scores are the same."""
    common = [a.keys() & b.keys() for a, b in zip(some, others, strict=True)]
    assert [len(a) for a in some] == [len(b) for b in others]
    assert np.mean([len(ids) / K for ids in common]) > 0.9
    for ids, a, b in zip(common, some, others, strict=True):
        assert [a[each] for each in ids] == pytest.approx([b[each] for each in ids], abs=1e-5)


@on_postgres
def test_it_finds_what_the_files_say(
    database: Database, end: Settle, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert end() == "succeeded"
    assert tables(database) == named(database)
    files, there = both(database, made)
    monkeypatch.setattr("lcl_core.collections.vector_index.nearest", only_few)
    for target in ("images", "texts"):
        check_same(found(there, target=target), found(files, target=target))
    for labels in ("yes", "no"):
        check_same(found(there, where={"rare": labels}), found(files, where={"rare": labels}))
    assert found(there, where={"rare": "never"}) == [{}] * len(QUERIES)
    monkeypatch.undo()
    ask = db_pgvector.PgVectorIndex(database, str(row_of(database).vectors), DIM)
    assert rows_of(ask, TextFilter("rare", ("yes",))) == list(range(0, ROWS, 10)), "the table has the labels"


@on_postgres
def test_changes_are_honoured(database: Database, end: Settle, made: Path) -> None:
    end()
    best = {next(iter(hits)) for hits in found(Collection.open(made))}
    record = {"id": f"img_{stable_hash64('new'):016x}", "image": "new", "captions": ["new"], "labels": {}, "split": ""}
    record |= {"source": "", "media_type": "image/png"}
    new = ChangeRecord(1, record["id"], record, QUERIES[0].tobytes(), QUERIES[1].tobytes())
    overlay = Delta().with_changes([new, *(ChangeRecord(2, item) for item in best)])
    files, there = (CollectionWithDelta(each, overlay) for each in both(database, made))
    for target in ("images", "texts"):
        check_same(found(there, target=target), found(files, target=target))
    answers = found(there)
    assert next(iter(answers[0])) == record["id"]
    assert best.isdisjoint(item for hits in answers for item in hits)


def only_few(vectors: np.ndarray, query: np.ndarray, k: int, rows: np.ndarray | None = None) -> Any:
    """One pass over everything is not what is examined."""
    assert rows is not None
    assert len(rows) <= K
    return exact_nearest(vectors, query, k, rows)


@on_postgres
def test_tables_go_with_their_row(
    database: Database, end: Settle, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end()
    _, outdated = both(database, made)
    expected = found(outdated)
    first = named(database)
    end()
    assert tables(database) == named(database)
    assert not tables(database) & first
    check_same(found(outdated), expected)  # who has the older directory open still finds all that is in it
    row, spec = row_of(database), {"encoder": "any", "collection": "many", "mode": "add", "dataset": None}
    handed = collections.prepare_collection_snapshots(
        database, parse_spec("index", spec), tmp_path / "changes", tmp_path
    )
    assert handed["many"]["index"] == "pgvector", "what auto goes by"
    monkeypatch.setattr(pgvector, "_SET_LOCK_TIMEOUT", text("SET LOCAL lock_timeout = '20ms'"))
    with database.engine.connect() as reader:
        reader.execute(text(f"SELECT count(*) FROM {row.vectors}_images"))
        end("files", id=row.id, base=row.path, through=0)
        assert tables(database) == {f"{row.vectors}_images", f"{row.vectors}_texts"}, "somebody reads them"
        assert row_of(database).vectors is None
    [left] = [each for each in garbage.list_garbage(database, tmp_path, 3600.0) if each.path.startswith("tables/")]
    assert (left.path, left.due) == (f"tables/{row.vectors}", True)
    assert left.bytes > ROWS * DIM * 2
    assert [each.path for each in garbage.collect_garbage(database, tmp_path, 3600.0)] == [left.path]
    assert tables(database) == set()


def hang_up(database: Database) -> bytes:
    """End what is at work on the database, as a restart of the server does."""
    with database.engine.connect() as connection:
        others = "pid <> pg_backend_pid() AND datname = current_database()"
        connection.execute(text(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {others}"))
    return bytes(1 << 20)


@on_postgres
def test_what_breaks_off_leaves_nothing(
    database: Database, end: Settle, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_and_fail() -> None:
        collection = Collection.open(made)
        with database.session() as session:
            location = IndexLocation(name=new_id("vec"), dim=collection.dim, session=session)
            pgvector.PgVectorIndex.check(location)
            index = pgvector.PgVectorIndex.at(location)
            for target in TARGETS:
                index.build(target, directory_batches(collection, target))
            assert tables(database) == set(), "nobody sees them before the commit"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert tables(database) == set()
    monkeypatch.setattr(pgvector, "_binary_rows", lambda *_: hang_up(database))
    with pytest.raises(UNREACHABLE):
        end()
    assert tables(database) == set()
    monkeypatch.setattr(pgvector, "_binary_rows", lambda *_: b"no row")
    assert end() == "failed"
    with database.reading() as session:
        run = runs.list_runs(session).items[0]
    assert run.reason is not None
    assert (run.reason["code"], run.reason["field"]) == ("pgvector_failed", "index")
    assert tables(database) == set()


def refusal(session: Session) -> str:
    with pytest.raises(UserError) as caught:
        db_pgvector.require_pgvector(session)
    assert (caught.value.code, caught.value.field) == ("pgvector_unavailable", "index")
    assert "set index to files" in caught.value.message
    return caught.value.message


def test_a_database_that_cannot_says_what_to_do(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgvector, "MIN_VERSION", (99, 0))
    with database.session() as session:
        wanted = "SQLite" if database.engine.dialect.name == "sqlite" else "99.0 is needed"
        assert wanted in refusal(session)


@pytest.fixture
def nobody(empty_postgres: str) -> Iterator[Database]:
    """The database as one sees it who may make no extension."""
    engine = create_engine(empty_postgres, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE ROLE nobody LOGIN"))
    url = make_url(empty_postgres).set(username="nobody", password=None)
    database = Database(url.render_as_string())
    yield database
    database.dispose()
    with engine.connect() as connection:
        connection.execute(text("DROP ROLE nobody"))
    engine.dispose()


def test_who_may_not_make_the_extension_is_told_whom_to_ask(nobody: Database) -> None:
    with nobody.session() as session:
        assert "CREATE EXTENSION vector" in refusal(session)
        assert session.scalar(text("SELECT 1")) == 1, "the transaction goes on"


def batch(start: int = 0, stop: int = ROWS) -> VectorBatch:
    return range(start, stop), [f"img_{row:016x}" for row in range(start, stop)], VECTORS[start:stop]


@pytest.fixture
def index(database: Database) -> db_pgvector.PgVectorIndex:
    """An index that is not built yet."""
    with database.session() as session:
        db_pgvector.PgVectorIndex.check(IndexLocation(session=session))
    return db_pgvector.PgVectorIndex(database, "vec_1", DIM)


def rows_of(index: db_pgvector.PgVectorIndex, *filters: Any) -> list[int] | None:
    """All rows that the filters leave; None: the table lacks a column."""
    found = index.search_labels(QUERIES[0].tolist(), ROWS, filters, [], ROWS)
    return None if found is None else sorted(found)


LONG = "".join(map(chr, np.random.default_rng(2).integers(0x4E00, 0x9000, 5000)))  # not to be compressed to 2,704 bytes
VALUES = [
    "plain",
    "%s :name 'quoted' \\ {x,y} \"",
    LONG,
    f"{LONG}x",
    f"sha256:{hashlib.sha256(LONG.encode()).hexdigest()}",  # as LONG is stored
    "nul \0",
    "half \ud83d",
]
LONG_NAME = "Name" + "_" * 55  # with one more character 60: ``text_…`` and ``members_…`` have more than 63 bytes


@on_postgres
def test_any_value_and_name_of_a_label_has_its_rows(index: db_pgvector.PgVectorIndex) -> None:
    texts, others, sets = (f"{LONG_NAME}{end}" for end in "abc")
    rows = [VALUES[row % len(VALUES)] for row in range(ROWS)]
    images = [
        {texts: value, others: VALUES[row % 2], sets: json.dumps([value, "every"]), f"{LONG_NAME}n": str(row)}
        for row, value in enumerate(rows)
    ]
    index.build("images", [batch()], LabelIndex.of(images, {texts: "text", others: "text", sets: "set"}))
    for value in VALUES:
        expected = [row for row in range(ROWS) if rows[row] == value]
        member = storable_text(value)  # of a set, which is read without what its escapes may not stand for
        assert rows_of(index, TextFilter(texts, (value,))) == expected
        assert rows_of(index, TextFilter(sets, (member,), True)) == expected
        assert rows_of(index, TextFilter(sets, (json.dumps([value, "every"]),), True)) == expected, "as it is written"
        assert rows_of(index, SetFilter(sets, (member, "every"))) == expected
    assert rows_of(index, TextFilter(others, ("plain",))) == list(range(0, ROWS, 2))
    assert rows_of(index, RangeFilter(f"{LONG_NAME}n", "number", 5.0, 8.0)) == [5, 6, 7]
    assert rows_of(index, TextFilter(texts.lower(), ("plain",))) is None, "another label"


LABELS = LabelIndex.of(
    [{"kind": "ab"[row % 2], "size": str(row), "tags": json.dumps(["x", str(row % 3)])} for row in range(ROWS)], {}
)
KIND, SIZE, TAGS = TextFilter("kind", ("a",)), RangeFilter("size", "number", 10.0), SetFilter("tags", ("0", "x"))


@on_postgres
def test_each_column_of_a_label_has_an_index(database: Database, index: db_pgvector.PgVectorIndex) -> None:
    index.build("images", [batch()], LABELS)
    index.build("texts", [batch()])
    with database.reading() as session:
        listed = session.execute(
            text("SELECT tablename, indexdef FROM pg_indexes WHERE indexname LIKE 'vec%label%'")
        ).all()
    assert {table for table, _ in listed} == {"vec_1_images"}
    assert sorted(definition.partition(" USING ")[2] for _, definition in listed) == [
        "btree (text_kind)",
        "btree (text_size)",
        "btree (text_tags)",
        "btree (value_size)",
        "gin (members_tags)",
    ]


@on_postgres
def test_a_table_from_before_there_were_columns_is_searched(index: db_pgvector.PgVectorIndex) -> None:
    with pytest.raises(UserError) as caught:
        rows_of(index, KIND)
    assert caught.value.code == "index_unusable", "there is no table yet"
    index.build("images", [batch()])
    assert rows_of(index, KIND) is None
    assert sorted(index("images", QUERIES[0].tolist(), ROWS, (), False)) == list(range(ROWS))


@on_postgres
@pytest.mark.parametrize("few", [True, False])
def test_few_rows_are_compared_without_the_graph(
    index: db_pgvector.PgVectorIndex, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planner prefers the graph, whose 100 candidates are nearer to the query than the rows that are allowed."""
    order = np.argsort(VECTORS @ QUERIES[0])  # the farthest first
    far = set(order[:50].tolist())
    labels = LabelIndex.of([{"far": "yes" if row in far else "no"} for row in range(ROWS)], {})
    index.build("images", [batch()], labels)
    settings = {"hnsw.iterative_scan": "off", "enable_sort": "off", "enable_seqscan": "off"}
    changes = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())
    command = text(f"SELECT set_config('hnsw.ef_search', :ef_search, true), {changes}")
    monkeypatch.setattr(db_pgvector, "_SET_SEARCH_PARAMETERS", command)
    monkeypatch.setattr(db_pgvector, "MAX_LISTED", 50 if few else 49)
    found = index.search_labels(QUERIES[0].tolist(), K, (TextFilter("far", ("yes",)),), [], 50)
    assert found == (order[50 - K : 50][::-1].tolist() if few else [])
