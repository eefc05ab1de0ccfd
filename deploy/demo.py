"""The demonstration: pre-train, evaluate and index on the sample corpus, all of it over REST."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from api.client import ApiError, Client
from lcl_core.errors import UserError

Json = dict[str, Any]
POLL_SECONDS = 0.5
FINAL = ("succeeded", "failed", "cancelled")
LOG_TAIL = 15
AWAY = (0, 502, 503, 504)  # statuses of an api that cannot be reached, or whose database cannot


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
        check: called at every look; starts again what has died, and raises when that is given up.

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
        facts: Json = {"name": f"demo-{kind}", "tags": ["demo"], "idempotency_key": uuid.uuid4().hex}
        run = self._answered(partial(self.client.submit, kind, spec, **facts))
        while run["state"] not in FINAL:
            self.check()
            self.screen.update(run)
            time.sleep(POLL_SECONDS)
            run = self._answered(partial(self.client.run, run["id"]))
        self.screen.finish(run)
        if run["state"] != "succeeded":
            raise UserError(self._why(run), code="demo_failed")
        return run

    def _answered(self, call: Callable[[], Json]) -> Json:
        """What ``call`` returns; while the api is being started again it is made anew.

        Raises: what ``check`` raises; ApiError of an api that is there and refuses.
        """
        while True:
            try:
                return call()
            except ApiError as error:
                if error.status not in AWAY or error.code == "unsendable":
                    raise
            self.check()
            time.sleep(POLL_SECONDS)

    def _why(self, run: Json) -> str:
        reason = (run.get("reason") or {}).get("message", "no reason was given")
        log = self.client.logs(run["id"])["text"].splitlines()[-LOG_TAIL:]
        tail = "".join(f"\n    {line}" for line in log)
        return f"{run['kind']} run {run['id']} {run['state']}: {reason}" + (f"; its log ends:{tail}" if tail else "")
