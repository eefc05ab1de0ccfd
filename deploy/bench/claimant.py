"""One worker of the benchmark of claims: ``python -m deploy.bench.claimant DATABASE_URL HOME``.

Says that it is ready, begins at a line on standard input, and ends with one JSON object when the queue is empty.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lcl_core.runs.database import Database
from lcl_core.runs.roster import Identity
from lcl_core.runs.store import Claim, SeatClaim, Succeeded, begin_attempt, settle
from workers.slots import Slots

READY = "ready"
LEASE_SECONDS = 30.0


@dataclass
class Log:
    """What one worker claimed, and the seconds it waited each time from asking to holding the lease."""

    claimed: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)


class _TimedSlots(Slots):
    """The workers' slots with a clock at the claim."""

    log: Log

    def _claim(self, given_up: str | None) -> Claim | SeatClaim | None:
        began = time.perf_counter()
        claim = super()._claim(given_up)
        if claim is not None:
            self.log.waits.append(time.perf_counter() - began)
            self.log.claimed.append(claim.run_id)
        return claim


def serve(url: str, home: Path) -> Log:
    """Claim and finish runs until there are none."""
    database, log = Database(url), Log()

    def work(claim: Claim | SeatClaim, stopping: threading.Event) -> None:
        assert isinstance(claim, Claim)
        with database.session() as session:
            begin_attempt(session, claim, encoder_id=None, from_scratch=True)
        settle(database, claim, Succeeded({}), home / "runs" / claim.run_id, home, 0.0)

    worker = Identity(f"worker-{os.getpid()}", "localhost", os.getpid(), 1, ("none",), ("cpu",))
    slots = _TimedSlots(worker, database, LEASE_SECONDS, work)
    slots.log = log
    with database.reading() as session:
        session.connection()  # a worker has long been connected when its next run comes
    print(READY, flush=True)
    sys.stdin.readline()
    slots.offer()
    slots.join()
    database.dispose()
    return log


if __name__ == "__main__":
    print(json.dumps(asdict(serve(sys.argv[1], Path(sys.argv[2])))))
