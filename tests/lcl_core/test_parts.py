"""Parts of an input: the same ones in every process, each once and in order, and the log of those that are complete."""

import random
from itertools import islice

import pytest

from lcl_core.common.errors import UserError
from lcl_core.parts import LOG_FILE, CompletionLog, Section, SectionCursor, SectionSchedule, fingerprint


class Letters:
    """Sections whose items are counted as they are read."""

    def __init__(self, **lengths):
        self._lengths = lengths
        self.read = 0

    def read_section(self, key, start=0):
        return islice(self._walk(key), start, None)

    def _walk(self, key):
        for number in range(self._lengths[key]):
            self.read += 1
            yield f"{key}{number}"


@pytest.mark.parametrize("step", [5, 20])
def test_ascending_parts_cost_one_walk(step):
    source = Letters(a=100)
    cursor = SectionCursor(source)
    for start in range(0, 100, step):
        assert list(cursor.read("a", start, 5)) == [f"a{number}" for number in range(start, start + 5)]
        assert cursor.ended is (start + 5 == 100)
    assert source.read <= 100


@pytest.mark.parametrize("seed", range(5))
def test_parts_in_any_order_are_the_same(seed):
    parts = [(key, start) for key in "ab" for start in range(0, 30, 7)]
    random.Random(seed).shuffle(parts)
    cursor = SectionCursor(Letters(a=30, b=12))
    for key, start in parts:
        length = {"a": 30, "b": 12}[key]
        expected = [f"{key}{number}" for number in range(start, min(start + 7, length))]
        assert list(cursor.read(key, start, 7)) == expected
        assert (cursor.items, cursor.ended) == (len(expected), start + 7 >= length)


def test_a_part_that_was_not_read_to_its_end_is_read_again():
    cursor = SectionCursor(Letters(a=30))
    assert list(islice(cursor.read("a", 0, 10), 3)) == ["a0", "a1", "a2"]
    assert list(cursor.read("a", 0, 4)) == ["a0", "a1", "a2", "a3"]
    assert list(cursor.read("a", 4, 2)) == ["a4", "a5"]


def test_a_fingerprint_tells_inputs_and_settings_apart():
    sections = [Section("a", "1"), Section("b", "1")]
    given = [
        fingerprint(sections, bound=1),
        fingerprint([Section("a", "1"), Section("b", "2")], bound=1),
        fingerprint(sections[::-1], bound=1),
        fingerprint(sections[:1], bound=1),
        fingerprint(sections, bound=2),
    ]
    assert len(set(given)) == len(given)
    assert fingerprint(sections, bound=1) == given[0]


class Attempt:
    """Processes that complete their tasks in any order; what is complete is in ``log``, as in the file."""

    def __init__(self, lengths, processes, log):
        self.lengths, self.processes, self.log = lengths, processes, log
        self.merged = []
        sections = [Section(str(number)) for number in range(len(lengths))]
        self.schedule = SectionSchedule(sections, self.merged.append, processes=processes)
        for arguments, result in log:
            self.schedule.complete(arguments, result)

    def run(self, order, stop_after=None):
        busy = []
        while not self.schedule.finished and stop_after != 0:
            while len(busy) < self.processes and (task := self.schedule.next_task()) is not None:
                busy.append(task.arguments)
            arguments = busy.pop(order.randrange(len(busy)))
            result = self.result(arguments)
            self.log.append((arguments, result))
            self.schedule.complete(arguments, result)
            stop_after = None if stop_after is None else stop_after - 1

    def result(self, arguments):
        length = self.lengths[arguments["number"]]
        if arguments["kind"] == "count":
            return {"items": length}
        start, end = arguments["start"], min(length, arguments["start"] + arguments["limit"])
        return {"part": (arguments["number"], start), "items": end - start, "ended": end == length}


@pytest.mark.parametrize("seed", range(40))
def test_an_attempt_continues_with_whatever_another_number_of_processes_left(seed):
    order = random.Random(seed)
    lengths = [order.choice([0, 1, 700, 1024, 5000, 9000]) for _ in range(order.randint(1, 3))]
    log = []
    for _ in range(4):
        Attempt(lengths, order.randint(1, 4), log).run(order, order.randint(1, 6))
    last = Attempt(lengths, order.randint(1, 4), log)
    last.run(order)
    expected = [(number, start) for number, length in enumerate(lengths) for start in range(0, max(length, 1), 1024)]
    assert [part["part"] for part in last.merged] == expected
    assert last.schedule.items == sum(lengths)


@pytest.mark.parametrize("processes", [2, 3])
def test_a_section_that_grows_after_it_was_counted_is_named(processes):
    class GrownInput(Attempt):
        def result(self, arguments):
            counted = (arguments["kind"], arguments["number"]) == ("count", 0)
            return {"items": 2048} if counted else super().result(arguments)

    with pytest.raises(UserError, match="2,048 items were counted") as caught:
        GrownInput([9000, 5000], processes, []).run(random.Random(0))
    assert (caught.value.code, caught.value.file) == ("conflict", "0")


def test_whatever_the_last_line_of_the_log_lost_the_others_stand(tmp_path):
    with CompletionLog(tmp_path, "x") as log:
        for number in range(3):
            log.append(number=number)
    whole = (tmp_path / LOG_FILE).read_bytes()
    ends = [end for end in range(1, len(whole) + 1) if whole[end - 1 : end] == b"\n"]
    for torn in (*(whole[:size] for size in range(len(whole) + 1)), whole + bytes(40) + b"\n"):
        (tmp_path / LOG_FILE).write_bytes(torn)
        with CompletionLog(tmp_path, "x") as log:
            kept = sum(end <= len(torn) for end in ends) - 1
            assert [entry["number"] for entry in log.entries()] == list(range(max(kept, 0)))
            log.append(number="next")
        with CompletionLog(tmp_path, "x") as log:
            assert list(log.entries())[-1] == {"number": "next"}


def test_a_log_of_another_input_is_removed_with_all_that_lies_there(tmp_path):
    with CompletionLog(tmp_path / "work", "x") as log:
        log.append(number=0)
    (tmp_path / "work" / "output").mkdir()
    with CompletionLog(tmp_path / "work", "y") as log:
        assert list(log.entries()) == []
    assert [path.name for path in (tmp_path / "work").iterdir()] == [LOG_FILE]


def test_what_is_discarded_or_finished_is_so_for_the_next_attempt(tmp_path):
    with CompletionLog(tmp_path, "x") as log:
        log.append(number=0)
        log.discard()
        assert list(log.entries()) == []
        log.append(number=1)
        log.finish(kind="done", items=7)
    with CompletionLog(tmp_path, "x") as log:
        assert list(log.entries()) == [{"kind": "done", "items": 7}]
