"""Clients that submit the planned runs and retry until they get a response, whatever is down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from api.client import ApiError, Client
from api.client.transport import RETRY_STATUSES
from tests.chaos.workload import PlannedRun, Role

Answer = TypeVar("Answer")
Json = dict[str, Any]
AGAIN_SECONDS = 0.25
LOOK_SECONDS = 0.5
PATIENCE_SECONDS = 600.0
FINAL = ("succeeded", "failed", "cancelled")
AT_ONCE = 6


@dataclass
class Submission:
    """An order and what came of asking.

    Attributes:
        after: the run that it comes after, in the end.
        cancelled: a cancel was accepted.
    """

    planned: PlannedRun
    run: Future[str] = field(default_factory=Future)
    after: str | None = None
    cancelled: bool = False


class RetryingClients:
    """A few threads that share a client and see to the orders one after another.

    Attributes:
        unanswered: submissions that got no answer and were sent again with the same Idempotency-Key.
        complaints: what an answer should never have been.
    """

    def __init__(self, client: Client) -> None:
        self.submissions: list[Submission] = []
        self.unanswered = 0
        self.bad_responses: list[str] = []
        self._client = client
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="customer")
        self._futures: list[Future[None]] = []
        self._lock = threading.Lock()
        self._over = threading.Event()

    def place(self, planned: PlannedRun) -> None:
        """Send somebody with the next order; returns at once."""
        submission = Submission(planned)
        self.submissions.append(submission)
        self._futures.append(self._pool.submit(self._see_to, submission))

    @property
    def done(self) -> bool:
        return all(future.done() for future in self._futures)

    def close(self) -> None:
        """Send nobody again. Raises: what an errand raised."""
        self._over.set()
        self._pool.shutdown(cancel_futures=True)
        for future in self._futures:
            if not future.cancelled():
                future.result()

    def resume_what_may(self, runs: Sequence[Json]) -> bool:
        """Queue again what failed with its only worker, and what was cancelled because of it; whether there was any."""
        states = {run["id"]: run["state"] for run in runs}
        lost = {"worker_lost", "killed"}
        fragile = {
            submission.run.result() for submission in self.submissions if submission.planned.role is Role.FRAGILE
        }
        again = []
        for run in runs:
            reason = run["reason"] or {}
            code, before = reason.get("code"), reason.get("run")
            followed = code == "predecessor_failed" and states.get(before) not in ("failed", "cancelled")
            if (run["state"] == "failed" and run["id"] in fragile and code in lost) or followed:
                again.append(run["id"])
        for run_id in again:
            self._verb(run_id, self._client.resume)
        return bool(again)

    def _see_to(self, submission: Submission) -> None:
        try:
            run_id = self._submit(submission)
            submission.run.set_result(run_id)
        except BaseException as error:
            submission.run.set_exception(error)
            raise
        role = submission.planned.role
        if role is Role.CANCELLED:
            time.sleep(submission.planned.linger)
            submission.cancelled = self._verb(run_id, self._client.cancel) in ("cancelling", "cancelled")
        if role is Role.PAUSED:
            time.sleep(submission.planned.linger)
            if self._verb(run_id, self._client.pause) in ("pausing", "paused"):
                self._wait(run_id, ("paused", *FINAL))
                self._verb(run_id, self._client.resume)

    def _submit(self, submission: Submission) -> str:
        planned = submission.planned
        submission.after = (
            None if planned.after is None else self.submissions[planned.after].run.result(PATIENCE_SECONDS)
        )

        def send() -> Json:
            return self._client.submit(
                "pretrain",
                planned.spec,
                tags=["chaos"],
                idempotency_key=planned.key,
                after=[submission.after] if submission.after else [],
                priority=planned.priority,
                max_attempts=planned.max_attempts,
            )

        try:
            return self._answered(send, self._note_unanswered)["id"]
        except ApiError as error:
            if error.code != "predecessor_failed":
                raise
            submission.after = None  # the one before has ended badly, so it comes after nobody
            return self._answered(send, self._note_unanswered)["id"]

    def _note_unanswered(self) -> None:
        with self._lock:
            self.unanswered += 1

    def _verb(self, run_id: str, verb: Callable[[str], Json]) -> str:
        """The state that the verb led to. One that was done although its answer was lost is refused the second time."""
        try:
            return self._answered(lambda: verb(run_id))["state"]
        except ApiError as error:
            if error.code != "conflict":
                raise
            return self._state(run_id)

    def _state(self, run_id: str) -> str:
        return self._answered(lambda: self._client.run(run_id))["state"]

    def _wait(self, run_id: str, states: Sequence[str]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._state(run_id) not in states:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{run_id} did not come to be {' or '.join(states)}")
            time.sleep(LOOK_SECONDS)

    def _answered(self, call: Callable[[], Answer], unanswered: Callable[[], None] = lambda: None) -> Answer:
        """The answer, however often it takes; one that says that the service is at fault is a complaint."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return call()
            except ApiError as error:
                if 0 < error.status < 500 and error.status not in RETRY_STATUSES:
                    raise
                if error.status and error.status not in RETRY_STATUSES:
                    self.bad_responses.append(f"the api answered {error.status}: {error.message}")
                if time.monotonic() > deadline or self._over.is_set():
                    raise
            unanswered()
            self._over.wait(AGAIN_SECONDS)
