"""Parts of the sections of an input as tasks, and their results in the order of the parts.

Parts are started in order, a bounded number of them beyond those whose results were handed on. One process alone gets
the parts of a section as it finds them; for several, the items of a section are counted first, so that its parts are
known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lcl_core.common.errors import UserError
from lcl_core.parts.plan import PART_ITEMS, Part, Section
from lcl_core.parts.runner import Json, PartTask

TAIL_ITEMS = 256  # of each part near the end of the input, so that no process is left with a long one
AHEAD = 4  # parts of each process that are in progress, or complete before one that precedes them is


class SectionSchedule:
    """The tasks ``part`` and ``count`` of an input. A ``Schedule``, and a part of others.

    Args:
        sections: of the input.
        merge: called with the result of each part in order, whatever the order in which they were complete. A result
            has at least ``items``, and ``ended``: whether its section has no further item.
        part_items: of a part; near the end of the last section parts have ``TAIL_ITEMS`` where that divides it.
        processes: that execute tasks.
    """

    def __init__(
        self,
        sections: Sequence[Section],
        merge: Callable[[Json], None],
        part_items: int = PART_ITEMS,
        processes: int = 1,
    ) -> None:
        self._sections, self._merge_result = sections, merge
        self._part_items, self._processes = part_items, processes
        self._results: dict[Part, Json] = {}  # not merged yet
        self._lengths: dict[int, int] = {}  # items by section, where they are known
        self._counting: set[int] = set()
        self._started: dict[Part, int] = {}  # parts in progress, and up to how many items each has
        self._merge = Part(0, 0)  # the next to be merged
        self._last: Part | None = None  # started or complete, the last one in order
        self.items = 0  # of parts that are complete

    @property
    def finished(self) -> bool:
        return self._merge.section >= len(self._sections)

    @property
    def waiting(self) -> list[Json]:
        """Results of parts that are complete while one before them is not."""
        return list(self._results.values())

    def next_task(self) -> PartTask | None:
        """A part, or a section to count; None: there is none until a task is complete."""
        part = self._next_part()
        # an attempt with more processes may have left more results than are allowed ahead: the missing part is started
        room = len(self._results) + len(self._started) < AHEAD * self._processes or not self._started
        if part is not None and room:
            self._last = part
            self._started[part] = self._limit(part)
            return self._part_task(part)
        return self._count_task() if part is None and self._processes > 1 else None

    def complete(self, arguments: Json, result: Json) -> None:
        """A task is complete. Raises: UserError ``corpus_changed``; what ``merge`` raises."""
        if arguments["kind"] == "count":
            self._counting.discard(arguments["number"])
        else:
            part = Part(arguments["number"], arguments["start"])
            self._started.pop(part, None)
            if not result["ended"]:
                self._check_length(part, result["items"])
        self.restore(arguments, result)

    def restore(self, arguments: Json, result: Json) -> None:
        """A task was complete before."""
        if arguments["kind"] == "count":
            self._lengths[arguments["number"]] = result["items"]
            return
        part = Part(arguments["number"], arguments["start"])
        self._results[part] = result
        self.items += result["items"]
        if result["ended"]:
            self._lengths[part.section] = part.start + result["items"]
        while (found := self._results.pop(self._merge, None)) is not None:
            self._merge = self._merge.next(found["items"], found["ended"])
            self._merge_result(found)

    def _check_length(self, part: Part, items: int) -> None:
        """Raises: UserError ``corpus_changed`` where a section has items beyond those that were counted.

        No part of them would be started, and the sections after it would wait for it for ever.
        """
        length = self._lengths.get(part.section)
        if length is not None and part.start + items >= length:
            key = self._sections[part.section].key
            message = (
                f"{length:,} items were counted, and now there are more: something writes to it; start again when it "
                "does not change any more"
            )
            raise UserError(message, code="corpus_changed", file=key or None)

    def _next_part(self) -> Part | None:
        """The next part that is neither complete nor in progress; None: there is none, or it is not known yet."""
        part = Part(0, 0) if self._last is None else self._after(self._last)
        while part is not None and (part < self._merge or part in self._results):
            self._last = part
            part = self._after(part)
        return part if part is not None and part.section < len(self._sections) else None

    def _after(self, part: Part) -> Part | None:
        if part < self._merge:
            return self._merge
        if part in self._results:
            return part.next(self._results[part]["items"], self._results[part]["ended"])
        length = self._lengths.get(part.section)
        limit = self._started[part]  # it may have begun before the length was known
        return None if length is None else part.next(limit, part.start + limit >= length)

    def _limit(self, part: Part) -> int:
        """Items of a part. The number of processes does not decide it: the next attempt may have another.

        Short parts fill a long one exactly, so that whatever parts an earlier attempt completed can be used.
        """
        length = self._lengths.get(part.section)
        if length is None or part.section < len(self._sections) - 1 or self._part_items % TAIL_ITEMS:
            return self._part_items
        return TAIL_ITEMS if length - part.start <= AHEAD * self._part_items else self._part_items

    def _part_task(self, part: Part) -> PartTask:
        section, items = self._sections[part.section], self._started[part]
        arguments = {
            "kind": "part",
            "number": part.section,
            "section": section.key,
            "start": part.start,
            "limit": items,
            "name": part.name,
        }
        return PartTask(
            arguments, f"items {part.start + 1:,} to {part.start + items:,} of {section.key or 'the corpus'}"
        )

    def _count_task(self) -> PartTask | None:
        """Of the first section whose items must be counted."""
        first = 0 if self._last is None else self._last.section
        for number in range(first, min(first + 1 + self._processes, len(self._sections))):
            if number not in self._lengths and number not in self._counting:
                self._counting.add(number)
                key = self._sections[number].key
                arguments = {"kind": "count", "number": number, "section": key}
                return PartTask(arguments, f"the number of items of {key or 'the corpus'}")
        return None
