"""Metrics on their way to the database: never doubled, cut back with the file, always valid JSON."""

import pytest

from lcl_core.db import leases, runs


@pytest.fixture
def claimed(queue, claim):
    queue()
    return claim()


@pytest.fixture
def record(database, claimed):
    def write(*lines, **more):
        with database.session() as session:
            leases.record_metrics(session, claimed, lines, **more)

    return write


def rows(database, run_id, after=0):
    with database.reading() as session:
        return list(runs.metrics_after(session, run_id, after))


def test_lines_become_rows_and_the_last_one_progress(database, claimed, record):
    record({"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0})
    first, second = rows(database, claimed.run_id)
    assert (first.values, second.values) == ({"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0})
    record({"step": 3, "loss": 1.0})
    assert [row.step for row in rows(database, claimed.run_id, after=second.id)] == [3]
    with database.reading() as session:
        assert runs.get_run(session, claimed.run_id).progress == {"step": 3, "loss": 1.0}


def test_steps_after_the_checkpoint_are_forgotten_and_come_with_new_ids(database, claimed, record):
    record(*({"step": step, "attempt": 1} for step in range(1, 6)))
    newest = rows(database, claimed.run_id)[-1].id
    record(*({"step": step, "attempt": 1} for step in range(1, 4)), rewound_to=3)
    assert [row.step for row in rows(database, claimed.run_id)] == [1, 2, 3]
    record({"step": 4, "attempt": 2})
    assert [row.step for row in rows(database, claimed.run_id, after=newest)] == [4]
    record(rewound_to=-1)
    assert rows(database, claimed.run_id) == []


def test_a_file_that_was_cut_back_comes_in_parts(database, claimed, record):
    record(*({"step": step, "attempt": 1} for step in range(1, 9)))
    newest = rows(database, claimed.run_id)[-1].id
    record({"step": 1, "attempt": 2}, {"step": 2, "attempt": 2}, rewound_to=5)
    stored = [(row.step, row.values["attempt"]) for row in rows(database, claimed.run_id)]
    assert stored == [(1, 2), (2, 2), (3, 1), (4, 1), (5, 1)]
    record(*({"step": step, "attempt": 2} for step in (3, 4, 5)))
    assert {row.values["attempt"] for row in rows(database, claimed.run_id)} == {2}
    assert rows(database, claimed.run_id, after=newest) == []


def test_what_json_in_the_database_cannot_hold(database, claimed, record):
    record({"step": 1, "loss": float("nan"), "norms": [float("inf"), 1.5], "note": "a\x00b"})
    stored = {"step": 1, "loss": None, "norms": [None, 1.5], "note": "a\ufffdb"}
    assert rows(database, claimed.run_id)[0].values == stored


def test_an_attempt_that_starts_over_forgets_the_metrics(database, claimed, record):
    record({"step": 1})
    with database.session() as session:
        leases.begin_attempt(session, claimed, encoder_id="enc_1", from_scratch=False)
    assert len(rows(database, claimed.run_id)) == 1
    with database.session() as session:
        leases.begin_attempt(session, claimed, encoder_id=None, from_scratch=True)
    assert rows(database, claimed.run_id) == []
