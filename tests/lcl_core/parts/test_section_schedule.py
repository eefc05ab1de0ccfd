"""Parts of sections: each item once and in order, however many processes, and none of them left with a long part."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from lcl_core.common.errors import UserError
from lcl_core.parts.plan import Section
from lcl_core.parts.runner import Json
from lcl_core.parts.section_schedule import SectionSchedule


class Attempt:
    """Processes that take as long for a part as it has items; what is complete is in ``log``, as in the file."""

    def __init__(self, lengths: Sequence[int], processes: int, log: list[tuple[Json, Json]]) -> None:
        self.lengths, self.processes, self.log = lengths, processes, log
        self.merged: list[Json] = []
        sections = [Section(str(number)) for number in range(len(lengths))]
        self.schedule = SectionSchedule(sections, self.merged.append, processes=processes)
        for arguments, result in log:
            self.schedule.restore(arguments, result)

    def run(self, stop_after: int | None = None, order: random.Random | None = None) -> int:
        """Items of the time that it takes. ``stop_after``: tasks that are complete when it is interrupted."""
        now, busy = 0, list[tuple[int, int, Json]]()
        while not self.schedule.finished:
            while len(busy) < self.processes and (task := self.schedule.next_task()) is not None:
                busy.append((now + self.cost(task.arguments), len(self.log) + len(busy), task.arguments))
            chosen = order.choice(busy) if order else min(busy, key=lambda each: each[:2])
            busy.remove(chosen)
            now = max(now, chosen[0])
            arguments, result = chosen[2], self.result(chosen[2])
            self.log.append((arguments, result))
            self.schedule.complete(arguments, result)
            if stop_after is not None and (stop_after := stop_after - 1) <= 0:
                return now
        return now

    def cost(self, arguments: Json) -> int:
        return self.result(arguments)["items"] if arguments["kind"] == "part" else 0

    def result(self, arguments: Json) -> Json:
        length = self.lengths[arguments["number"]]
        if arguments["kind"] == "count":
            return {"items": length}
        end = min(length, arguments["start"] + arguments["limit"])
        ranges = {"section": arguments["number"], "start": arguments["start"]}
        return {**ranges, "items": end - arguments["start"], "ended": end == length}


def check_all_in_order(merged: list[Json], lengths: Sequence[int]) -> None:
    at, section = 0, 0
    for part in merged:
        assert (part["section"], part["start"]) == (section, at)
        at += part["items"]
        if part["ended"]:
            assert at == lengths[section]
            at, section = 0, section + 1
    assert section == len(lengths)


@pytest.mark.parametrize("processes", [2, 3, 4])
@pytest.mark.parametrize("items", [3000, 5000, 12_345, 50_000])
def test_processes_end_at_about_the_same_time(items: int, processes: int) -> None:
    attempt = Attempt([items], processes, [])
    taken = attempt.run()
    check_all_in_order(attempt.merged, [items])
    # what no division can avoid: the first part begins before the items are counted
    assert taken <= max(1024, items / processes) + 256
    if items >= 5000:
        assert items / taken >= 0.85 * processes


def test_long_parts_are_the_rule() -> None:
    attempt = Attempt([100_000], 2, [])
    attempt.run()
    assert len(attempt.merged) < 100_000 / 1024 + 16


@pytest.mark.parametrize("seed", range(40))
def test_an_attempt_continues_with_whatever_another_number_of_processes_left(seed: int) -> None:
    order = random.Random(seed)
    lengths = [order.choice([0, 1, 700, 1024, 5000, 9000]) for _ in range(order.randint(1, 3))]
    log: list[tuple[Json, Json]] = []
    for _ in range(4):
        Attempt(lengths, order.randint(1, 4), log).run(order.randint(1, 6), order)
    last = Attempt(lengths, order.randint(1, 4), log)
    last.run(order=order)
    check_all_in_order(last.merged, lengths)


class GrownInput(Attempt):
    """The first section has more items than when they were counted."""

    def result(self, arguments: Json) -> Json:
        if (arguments["kind"], arguments["number"]) == ("count", 0):
            return {"items": 1500}
        return super().result(arguments)


@pytest.mark.parametrize("processes", [2, 3])
def test_a_section_that_grows_after_it_was_counted_is_named(processes: int) -> None:
    with pytest.raises(UserError, match="1,500 items were counted") as caught:
        GrownInput([3000, 5000], processes, []).run()
    assert (caught.value.code, caught.value.file) == ("corpus_changed", "0")
