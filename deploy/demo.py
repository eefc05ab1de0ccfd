"""The demonstration: pre-train, evaluate and index on the sample corpus, all of it over REST."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from api.client import Client
from lcl_core.errors import UserError

Json = dict[str, Any]
POLL_SECONDS = 0.5
FINAL = ("succeeded", "failed", "cancelled")
LOG_TAIL = 15


class Screen(Protocol):
    """Where progress goes: a live bar or plain lines."""

    def update(self, run: Json) -> None: ...

    def finish(self, run: Json) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """The three finished runs, as the service describes them."""

    pretrain: Json
    evaluate: Json
    index: Json


def run_demo(client: Client, screen: Screen, check: Callable[[], None]) -> Outcome:
    """Three runs, one after the other.

    Args:
        check: called at every look; raises when a part of the service has died.

    Raises:
        UserError: ``demo_failed`` with the run's reason, when one did not succeed.
    """
    follow = Follower(client, screen, check)
    pretrain = follow("pretrain", {"preset": "sample"})
    encoder = pretrain["encoder_id"]
    # full transfer, which the preset asks for too, would take as long as the training
    evaluation = {"preset": "sample", "encoder": encoder, "classification": {"transfer": ["frozen"]}}
    evaluate = follow("evaluate", evaluation)
    index = follow("index", {"encoder": encoder, "collection": "sample"})
    return Outcome(pretrain, evaluate, index)


@dataclass(frozen=True)
class Follower:
    """Submits a run and shows it to its end."""

    client: Client
    screen: Screen
    check: Callable[[], None]

    def __call__(self, kind: str, spec: Json) -> Json:
        run = self.client.submit(kind, spec, name=f"demo-{kind}", tags=["demo"])
        while run["state"] not in FINAL:
            self.check()
            self.screen.update(run)
            time.sleep(POLL_SECONDS)
            run = self.client.run(run["id"])
        self.screen.finish(run)
        if run["state"] != "succeeded":
            raise UserError(self._why(run), code="demo_failed")
        return run

    def _why(self, run: Json) -> str:
        reason = (run.get("reason") or {}).get("message", "no reason was given")
        log = self.client.logs(run["id"])["text"].splitlines()[-LOG_TAIL:]
        tail = "".join(f"\n    {line}" for line in log)
        return f"{run['kind']} run {run['id']} {run['state']}: {reason}" + (f"; its log ends:{tail}" if tail else "")
