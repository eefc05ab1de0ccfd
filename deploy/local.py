"""``python -m deploy.local up | demo [--once]``: the whole service on this machine, without any set-up.

``up`` serves until Ctrl-C. ``demo`` first trains, evaluates and indexes on the sample corpus over REST and prints
the results; with ``--once`` it leaves after that. Exit status 0 is success, 1 a failure that was explained.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from api.client import ApiError
from deploy.child import PROJECT
from deploy.demo import run_demo
from deploy.house import House
from deploy.report import print_report
from deploy.screen import screen_on
from deploy.signals import Interrupted, Signals
from lcl_core.errors import UserError
from lcl_core.home_folder import private_umask

WATCH_SECONDS = 0.5
CALL_SECONDS = 20.0
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    console = Console(highlight=False)
    with Signals() as signals:
        try:
            say(console, f"starting the service on {arguments.home}")
            with House(arguments.home, lambda text: say(console, text), signals.hurry) as house:
                try:
                    return serve(house, console, arguments)
                finally:
                    signals.begin_stopping()
        except Interrupted:
            say(console, "stopped before it was done")
            return INTERRUPTED
        except (UserError, ApiError) as error:
            say(Console(stderr=True, highlight=False), f"error: {error}")
            return 1


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    top.add_argument("command", choices=("up", "demo"))
    top.add_argument("--once", action="store_true", help="demo: leave after the result table")
    home = Path(os.environ.get("LCL_HOME") or PROJECT / ".lcl")
    top.add_argument("--home", type=Path, default=home, help=f"where everything is kept (now {home})")
    return top


def serve(house: House, console: Console, arguments: argparse.Namespace) -> int:
    """Raises: Interrupted while the demonstration runs, UserError when a part or a step of it fails."""
    key = f"key in {house.key_file}" if house.key_file.exists() else "key: LCL_ADMIN_KEY"
    say(console, f"page  {house.page_address}\napi   {house.api_url}/docs   {key}")
    if arguments.command == "demo":
        demonstrate(house, console)
        if arguments.once:
            return 0
    say(console, "Ctrl-C ends it.")
    try:
        while True:
            house.check()
            time.sleep(WATCH_SECONDS)
    except Interrupted:
        say(console, "stopping")
        return 0


def demonstrate(house: House, console: Console) -> None:
    # calls are short and tried once: nobody starts again what has died while one waits for an answer
    with house.client(CALL_SECONDS, attempts=1) as client, screen_on(console) as screen:
        outcome = run_demo(client, screen, house.require_all)
    print_report(console, outcome)
    say(console, f"Try it on the page: {house.page_address}")


def say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


if __name__ == "__main__":
    private_umask()
    sys.exit(main())
