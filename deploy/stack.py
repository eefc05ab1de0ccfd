"""Several children as one: started in order, watched together, ended in the opposite order."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx

from deploy.child import Child, Service
from lcl_core.errors import UserError

POLL_SECONDS = 0.1


def never() -> bool:
    return False


class Stack:
    """The launcher's children.

    Args:
        logs: folder of their logs.
        hurry: asked while stopping; True skips what is left of the grace.
    """

    def __init__(self, logs: Path, hurry: Callable[[], bool] = never) -> None:
        self.logs = logs
        self.children: list[Child] = []
        self._hurry = hurry

    def start(self, service: Service) -> Child:
        child = Child(service, self.logs)
        self.children.append(child)
        return child

    def check(self) -> None:
        """Raises: ChildDied for the first child that is gone."""
        for child in self.children:
            child.check()

    def wait_until(self, ready: Callable[[], bool], what: str, seconds: float) -> None:
        """Poll ``ready``. Raises: ChildDied, or UserError ``not_ready`` after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise UserError(
                    f"{what} did not come up within {seconds:.0f} s; see {self.logs}", code="not_ready"
                )
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        while self.children:
            self.children.pop().stop(self._hurry)


def answers(url: str, seconds: float = 5.0) -> bool:
    """True when ``url`` answers 200 within ``seconds``."""
    try:
        return httpx.get(url, timeout=seconds, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
