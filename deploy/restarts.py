"""Restarts what has died: after pauses that grow, and not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from deploy.child import ChildDied
from lcl_core.errors import UserError

FIRST_SECONDS, LONGEST_SECONDS = 1.0, 30.0  # between a death and the next start; doubled from one to the other
HEALTHY_SECONDS = 60.0  # a process that lived so long begins with the first pause again
MOST_DEATHS = 10  # in a row, none of them after a healthy time: about four minutes with the pauses
WRONG_SETTINGS = 2  # exit status by which a process says that its settings are wrong


class Part(Protocol):
    """A process that can be started again."""

    @property
    def name(self) -> str: ...

    def check(self) -> None:
        """Raises: ChildDied."""

    def start(self) -> None:
        """Raises: UserError, OSError."""

    def give_up(self) -> None:
        """Called when it will not be started any more."""


@dataclass
class _Watched:
    part: Part
    started: float
    deaths: int = 0
    again_at: float | None = None
    last_words: str = ""  # not empty: it is not started again

    def died(self, death: ChildDied | UserError | OSError, now: float) -> float | None:
        """Count a death. Returns: seconds until the next start; None when there is to be none."""
        self.deaths = 1 if now - self.started >= HEALTHY_SECONDS else self.deaths + 1
        if getattr(death, "status", None) == WRONG_SETTINGS or self.deaths >= MOST_DEATHS:
            return None
        return min(FIRST_SECONDS * 2 ** (self.deaths - 1), LONGEST_SECONDS)


class Restarter:
    """Watches parts; ``tend`` is to be called often, from the thread that started them (they die with it).

    Args:
        say: gets one line for each death and each restart, and the last words of a part that is given up.
        clock: seconds that only grow.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._watched: list[_Watched] = []

    def watch(self, part: Part) -> None:
        """Take care of a part that has just been started."""
        self._watched.append(_Watched(part, self._clock()))

    def tend(self) -> None:
        """Notice deaths, and start again what is due. Each part by itself: the others go on."""
        for watched in self._watched:
            if not watched.last_words:
                self._tend(watched)

    def require_all(self) -> None:
        """Raises: UserError ``child_died`` for a part that is not started again, with its last words."""
        for watched in self._watched:
            if watched.last_words:
                raise UserError(watched.last_words, code="child_died")

    def _tend(self, watched: _Watched) -> None:
        now = self._clock()
        try:
            if watched.again_at is None:
                watched.part.check()
            elif now >= watched.again_at:
                watched.again_at, watched.started = None, now
                watched.part.start()
                self._say(f"{watched.part.name} is started again")
        except (UserError, OSError) as death:
            self._after(watched, death, now)

    def _after(self, watched: _Watched, death: UserError | OSError, now: float) -> None:
        pause = watched.died(death, now)
        if pause is not None:
            watched.again_at = now + pause
            self._say(f"{str(death).splitlines()[0]}; starting it again in {pause:g} s")
            return
        times = "its settings are wrong" if watched.deaths < MOST_DEATHS else f"it died {watched.deaths} times in a row"
        watched.last_words = f"{watched.part.name} is not started again, since {times}: {death}"
        watched.part.give_up()
        self._say(f"{watched.last_words}\nThe other parts go on; mend the cause, then end and start the launcher.")
