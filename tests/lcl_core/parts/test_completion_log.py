"""The log of completed tasks, and what is left of it after a kill at any byte."""

from __future__ import annotations

from pathlib import Path

from lcl_core.parts.completion_log import LOG_FILE, CompletionLog


def test_entries_are_there_for_the_next_attempt(tmp_path: Path) -> None:
    with CompletionLog(tmp_path / "work", "x") as log:
        assert not log.resumed
        log.append(kind="part", number=1)
        log.append(kind="part", number=2)
    with CompletionLog(tmp_path / "work", "x") as log:
        assert log.resumed
        assert [entry["number"] for entry in log.entries()] == [1, 2]


def test_whatever_the_last_line_lost_the_others_stand(tmp_path: Path) -> None:
    with CompletionLog(tmp_path, "x") as log:
        for number in range(3):
            log.append(number=number)
    whole = (tmp_path / LOG_FILE).read_bytes()
    ends = [end for end in range(1, len(whole) + 1) if whole[end - 1 : end] == b"\n"]
    for size in range(len(whole) + 1):
        (tmp_path / LOG_FILE).write_bytes(whole[:size])
        with CompletionLog(tmp_path, "x") as log:
            kept = sum(end <= size for end in ends) - 1
            assert [entry["number"] for entry in log.entries()] == list(range(max(kept, 0)))
            log.append(number="next")
        with CompletionLog(tmp_path, "x") as log:
            assert list(log.entries())[-1] == {"number": "next"}


def test_blocks_that_the_disk_never_got_end_it(tmp_path: Path) -> None:
    with CompletionLog(tmp_path, "x") as log:
        log.append(number=0)
    with (tmp_path / LOG_FILE).open("ab") as file:
        file.write(bytes(40) + b"\n")
    with CompletionLog(tmp_path, "x") as log:
        assert list(log.entries()) == [{"number": 0}]


def test_another_input_removes_all_that_lies_there(tmp_path: Path) -> None:
    with CompletionLog(tmp_path / "work", "x") as log:
        log.append(number=0)
    (tmp_path / "work" / "output").mkdir()
    with CompletionLog(tmp_path / "work", "y") as log:
        assert (log.resumed, list(log.entries())) == (False, [])
    assert [path.name for path in (tmp_path / "work").iterdir()] == [LOG_FILE]


def test_what_is_discarded_or_finished_is_so_for_the_next_attempt(tmp_path: Path) -> None:
    with CompletionLog(tmp_path, "x") as log:
        log.append(number=0)
        log.discard()
        assert list(log.entries()) == []
        log.append(number=1)
        log.finish(kind="done", items=7)
    with CompletionLog(tmp_path, "x") as log:
        assert list(log.entries()) == [{"kind": "done", "items": 7}]
