"""``python -m deploy.local up | demo [--once]``: the whole service on this machine, without any set-up.

``up`` serves until Ctrl-C. ``demo`` first trains, evaluates and indexes on the sample corpus over REST and prints the
results; with ``--once`` it exits after that. Exit status 0 is success, 1 a failure that was explained. The first Ctrl-C
stops in order, a second one at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self

from api.client import ApiError
from deploy.demo import run_demo
from deploy.local_stack import LocalStack
from deploy.process import PROJECT
from lcl_core.common.errors import UserError
from lcl_core.common.paths import private_umask

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ShutdownRequested(BaseException):
    """A signal stops the launcher. A BaseException, so that no handler of errors catches it."""


class ShutdownSignals:
    """A context manager: the first signal raises ShutdownRequested, later ones make ``hurry()`` true."""

    def __init__(self) -> None:
        self._stopping = False
        self._hurry = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {which: signal.signal(which, self._on_signal) for which in HANDLED}
        return self

    def __exit__(self, *_: object) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)

    def begin_stopping(self) -> None:
        """From now on signals raise nothing; they only make ``hurry()`` true."""
        self._stopping = True

    def hurry(self) -> bool:
        return self._hurry

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._stopping:
            self._hurry = True
            return
        self._stopping = True
        raise ShutdownRequested


WATCH_SECONDS = 0.5
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    with ShutdownSignals() as signals:
        try:
            say(f"starting the service on {arguments.home}")
            with LocalStack(arguments.home, say, signals.hurry) as stack:
                try:
                    return serve(stack, arguments)
                finally:
                    signals.begin_stopping()
        except ShutdownRequested:
            say("stopped before it was done")
            return INTERRUPTED
        except (UserError, ApiError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    top.add_argument("command", choices=("up", "demo"))
    top.add_argument("--once", action="store_true", help="demo: leave after the result table")
    home = Path(os.environ.get("LCL_HOME") or PROJECT / ".lcl")
    top.add_argument("--home", type=Path, default=home, help=f"where everything is kept (now {home})")
    return top


def serve(stack: LocalStack, arguments: argparse.Namespace) -> int:
    """Raises: ShutdownRequested while the demonstration runs, UserError when a part or a step of it fails."""
    say(f"page  {stack.page_address}\napi   {stack.api_url}/docs   key in {stack.key_source}")
    if arguments.command == "demo":
        with stack.client() as client:
            run_demo(client, stack.stack.check)
        say(f"Try it on the page: {stack.page_address}")
        if arguments.once:
            return 0
    say("Ctrl-C ends it.")
    try:
        while True:
            stack.check()
            time.sleep(WATCH_SECONDS)
    except ShutdownRequested:
        say("stopping")
        return 0


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    private_umask()
    sys.exit(main())
