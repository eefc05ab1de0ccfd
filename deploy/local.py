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
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self

from api.cli.output import duration, print_table
from api.cli.runs import format_metrics
from api.client import ApiError, Client
from api.client.payloads import FINAL_STATES, Json
from deploy.local_stack import LocalStack
from deploy.process import PROJECT
from lcl_core.common.errors import UserError
from lcl_core.common.paths import private_umask

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WATCH_SECONDS = 0.5
INTERRUPTED = 130
LINE_SECONDS = 5.0  # between lines of progress
LOG_TAIL_LINES = 15
REPORTED_METRICS = {
    ("retrieval", "IR@5"): "text → image, R@5",
    ("retrieval", "TR@5"): "image → text, R@5",
    ("classification", "acc@1"): "class, top-1",
    ("zero_shot_classification", "acc@1"): "named class, top-1",
}


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


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    with ShutdownSignals() as signals:
        try:
            print_line(f"starting the service on {arguments.home}")
            with LocalStack(arguments.home, print_line, signals.hurry) as stack:
                try:
                    return serve(stack, arguments)
                finally:
                    signals.begin_stopping()
        except ShutdownRequested:
            print_line("stopped before it was done")
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
    print_line(f"page  {stack.page_address}\napi   {stack.api_url}/docs   key in {stack.key_source}")
    if arguments.command == "demo":
        with stack.client() as client:
            run_demo(client, stack.stack.check)
        print_line(f"Try it on the page: {stack.page_address}")
        if arguments.once:
            return 0
    print_line("Ctrl-C ends it.")
    try:
        while True:
            stack.check()
            time.sleep(WATCH_SECONDS)
    except ShutdownRequested:
        print_line("stopping")
        return 0


def run_demo(client: Client, check: Callable[[], None]) -> None:
    """Three runs, then their results. ``check`` is called at every poll and raises when a part of the service died."""
    pretrain = follow_run(client, check, "pretrain", {"preset": "sample_resnet"})
    encoder = pretrain["encoder_id"]
    # full transfer, which is in the preset too, would take as long as the training
    evaluation = {"preset": "sample", "encoder": encoder, "classification": {"transfer": ["frozen"]}}
    evaluate = follow_run(client, check, "evaluate", evaluation)
    index = follow_run(client, check, "index", {"encoder": encoder, "collection": "sample", "mode": "replace"})
    made, collection = pretrain["result"]["encoder"], index["result"]["collection"]
    shown = []
    for row in evaluate["result"]["rows"]:
        if title := REPORTED_METRICS.get((row["task"], row["metric"])):
            variant = f"{row['variant']}, full" if row.get("transfer") == "full" else row["variant"]
            scores = (None if row[name] is None else f"{row[name]:.3f}" for name in ("value", "chance", "untrained"))
            shown.append((title, variant, *scores, row["candidates"]))
    print_line("\nThe encoder on drawings by artists it never saw:")
    print_table(("test", "with", "encoder", "chance", "untrained", "choices"), shown, "nothing was measured")
    print_line(
        f"Training took {duration(made['seconds'])}: {made['steps']:,} steps, {made['images_seen']:,} images, "
        f"{made['parameters'] / 1e6:.1f} M parameters.\n"
        f"Collection {collection['name']!r} holds {collection['images']:,} images and {collection['texts']:,} texts."
    )


def follow_run(client: Client, check: Callable[[], None], kind: str, spec: Json) -> Json:
    """Submit a run and print a line of progress every few seconds until its end. Returns: the run."""
    run = client.submit(kind, spec, f"demo-{kind}", ["demo"])
    last, next_line = "", 0.0
    while run["state"] not in FINAL_STATES:
        check()
        line = run["progress"] or {}
        step = f"  step {line['step']:,}/{line['total_steps']:,}" if line.get("total_steps") else ""
        text = f"{run['state']}{step}  {format_metrics(line)}".rstrip()
        if time.monotonic() >= next_line and text != last:
            last, next_line = text, time.monotonic() + LINE_SECONDS
            print_line(f"{kind:<9} {text}")
        time.sleep(WATCH_SECONDS)
        run = client.run(run["id"])
    print_line(f"{kind:<9} {run['state']}")
    if run["state"] != "succeeded":
        reason = (run["reason"] or {}).get("message", "no reason was given")
        log = client.logs(run["id"])["text"].splitlines()[-LOG_TAIL_LINES:]
        message = f"{kind} run {run['id']} {run['state']}: {reason}; its log ends:"
        raise UserError("\n    ".join([message, *log]), code="demo_failed")
    return run


def print_line(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    private_umask()
    sys.exit(main())
