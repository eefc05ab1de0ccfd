"""One worker of the claim benchmark: ``python -m benchmarks.claim_worker DATABASE_URL HOME``.

Prints ``ready``, starts at a line on standard input, and ends with one JSON object when the queue is empty.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lcl_core.db.complete_run import RunSucceeded, complete_run
from lcl_core.db.leases import Claim, begin_attempt
from lcl_core.db.session import Database
from lcl_core.db.workers import WorkerIdentity
from workers.claim_loop import ClaimLoop

READY = "ready"
LEASE_SECONDS = 30.0


@dataclass
class ClaimLog:
    """Run ids that one worker claimed, and the seconds of each claim."""

    claimed: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)


class _TimedClaimLoop(ClaimLoop):
    """The product's claim loop with a clock around the claim."""

    log: ClaimLog

    def _claim(self) -> Claim | None:
        began = time.perf_counter()
        claim = super()._claim()
        if claim is not None:
            self.log.waits.append(time.perf_counter() - began)
            self.log.claimed.append(claim.run_id)
        return claim


def claim_all(url: str, home: Path) -> ClaimLog:
    """Claim and complete runs until the queue is empty."""
    database, log = Database(url), ClaimLog()

    def work(claim: Claim, stopping: threading.Event) -> None:
        with database.session() as session:
            begin_attempt(session, claim, encoder_id=None, from_scratch=True)
        complete_run(database, claim, RunSucceeded({}), home / "runs" / claim.run_id, home, 0.0)

    worker = WorkerIdentity(f"worker-{os.getpid()}", "localhost", os.getpid(), 1, ("none",), ("cpu",))
    claim_loop = _TimedClaimLoop(worker, database, LEASE_SECONDS, work)
    claim_loop.log = log
    with database.reading() as session:
        session.connection()  # a worker is connected before its next claim
    print(READY, flush=True)
    sys.stdin.readline()
    claim_loop.notify()
    claim_loop.join()
    database.dispose()
    return log


if __name__ == "__main__":
    print(json.dumps(asdict(claim_all(sys.argv[1], Path(sys.argv[2])))))
