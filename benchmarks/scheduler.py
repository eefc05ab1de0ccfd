"""How long a run of several nodes waits for workers that are busy, and how much of the fleet idles for it.

A discrete-event simulation that calls the product's own claiming code under a virtual clock: one-hour runs keep all
workers busy, five-minute runs with ``timeout_seconds`` come in between, and a run of several nodes is submitted every
eight hours. No process is started and no time is slept.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import func, select, update

from lcl_core.db.gang import MemberLease
from lcl_core.db.leases import Claim, lock_with_lease, transition
from lcl_core.db.models import GangMemberRow, Run, Worker
from lcl_core.db.queue import claim_next
from lcl_core.db.session import Database
from lcl_core.db.states import State
from lcl_core.db.submit import submit
from lcl_core.db.workers import WorkerIdentity, record_heartbeat
from lcl_core.specs.parsing import AnySpec, parse_spec

FLEETS = ((16, 8), (64, 16), (256, 64))  # workers, nodes
HOUR = 3600.0
LONG_SECONDS, SHORT_SECONDS = HOUR, 300.0
GANGS_EVERY = 8 * HOUR
SHORT_SHARE = 0.1  # of the fleet's time
LOOK_SECONDS = 60.0  # between two times at which a waiting worker asks for something shorter; the product's is 2 s
LEASE_SECONDS = 30 * 86_400.0  # no worker is lost
START = datetime(2026, 1, 1, tzinfo=UTC)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--fleet", nargs=2, type=int, action="append", metavar=("WORKERS", "NODES"))


def main(options: argparse.Namespace) -> None:
    fleets = [tuple(fleet) for fleet in options.fleet] if options.fleet else FLEETS
    rows = [measure(workers, nodes, options.seeds, options.hours) for workers, nodes in fleets]
    print(json.dumps({"kind": "simulated with the product's own claiming code", "fleets": rows}, indent=1))


def measure(workers: int, nodes: int, seeds: int, hours: float) -> dict[str, Any]:
    """Waits of the gangs of all seeds in minutes, and the idle shares of the fleet."""
    days = [simulate(workers, nodes, seed, hours) for seed in range(seeds)]
    waits = [wait / 60 for day in days for wait in day.waits]
    return {
        "workers": workers,
        "nodes": nodes,
        "seeds": seeds,
        "hours": hours,
        "gangs_submitted": sum(day.submitted for day in days),
        "gangs_started": len(waits),
        "start_minutes": {"median": round(sorted(waits)[len(waits) // 2], 1), "worst": round(max(waits), 1)},
        "idle_share_worst": round(max(day.idle_share for day in days), 4),
        "idle_share_while_collecting_worst": round(max(day.collecting_idle_share for day in days), 4),
        "short_runs_while_collecting": sum(day.backfilled for day in days),
    }


@dataclass
class SimulatedDay:
    """Outcome of one simulation."""

    submitted: int = 0
    waits: list[float] = field(default_factory=list)  # seconds from a gang's submission to its start
    idle_share: float = 0.0
    collecting_idle_share: float = 0.0  # between the submission of a gang and its start
    backfilled: int = 0  # short runs that began while a gang collected


def simulate(workers: int, nodes: int, seed: int, hours: float = 24.0) -> SimulatedDay:
    """One fleet for so many hours. The same seed gives the same events."""
    with TemporaryDirectory(prefix="lcl-sim-") as folder:
        fleet = _Fleet(f"sqlite:///{Path(folder) / 'lcl.db'}", workers, nodes, random.Random(seed))  # noqa: S311
        try:
            return fleet.run(hours * HOUR)
        finally:
            fleet.database.dispose()


class _Fleet:
    """Workers with one slot each, and the events of their day, in seconds since its start."""

    def __init__(self, url: str, workers: int, nodes: int, rng: random.Random) -> None:
        self.database = Database(url, clock=lambda: START + timedelta(seconds=self._now))
        self.database.migrate()
        self._now, self._alive_until, self._counted_until = 0.0, -1.0, 0.0
        self._rng, self._nodes = rng, nodes
        self._names = [f"worker-{number:03}" for number in range(workers)]
        self._idle = set(self._names)
        self._seats: dict[str, MemberLease] = {}
        self._looking: set[str] = set()  # workers with an event "look"
        self._events: list[tuple[float, int, str, Any]] = []
        self._order = itertools.count()
        self._collecting: dict[str, float] = {}
        self._begun: dict[str, float] = {}  # of the runs at work
        self._idle_seconds = self._collecting_idle = self._collecting_seconds = 0.0
        self._long, self._short, self._wide = (
            parse_spec("pretrain", {"timeout_seconds": LONG_SECONDS}),
            parse_spec("pretrain", {"timeout_seconds": SHORT_SECONDS}),
            parse_spec("pretrain", {"timeout_seconds": LONG_SECONDS, "engine": {"nodes": nodes}}),
        )
        self._day = SimulatedDay()

    def run(self, seconds: float) -> SimulatedDay:
        self._register()
        for at in self._times(SHORT_SECONDS / (SHORT_SHARE * len(self._names)), seconds):
            self._at(at, "short", None)
        self._begin_in_the_middle()
        gang_at = HOUR
        while gang_at < seconds - 2 * HOUR:
            self._at(gang_at + self._rng.uniform(0, HOUR), "gang", None)
            gang_at += GANGS_EVERY
        while self._events and self._events[0][0] <= seconds:
            at, _, what, subject = heapq.heappop(self._events)
            self._advance(at)
            getattr(self, f"_on_{what}")(subject)
        self._advance(seconds)
        self._day.idle_share = self._idle_seconds / (seconds * len(self._names))
        self._day.collecting_idle_share = self._collecting_idle / max(self._collecting_seconds * len(self._names), 1.0)
        return self._day

    def _register(self) -> None:
        with self.database.session() as session:
            for name in self._names:
                record_heartbeat(session, WorkerIdentity(name, name, 1, 1, ("simulated",), ("cpu",), home="home"))

    def _begin_in_the_middle(self) -> None:
        """All workers are at work on one-hour runs that began at random times within the last hour."""
        for name in self._names:
            self._submit(self._long, "everybody")
            self._claim(name, self._rng.uniform(0, LONG_SECONDS))

    def _times(self, mean: float, end: float) -> list[float]:
        times, at = [], 0.0
        while (at := at + self._rng.expovariate(1 / mean)) < end:
            times.append(at)
        return times

    def _at(self, at: float, what: str, subject: Any) -> None:
        heapq.heappush(self._events, (at, next(self._order), what, subject))

    def _advance(self, at: float) -> None:
        """Move the clock; count the idle time; workers and runs show that they are alive."""
        passed = at - self._now
        idle = passed * len(self._idle | self._seats.keys())
        self._idle_seconds += idle
        if self._collecting:
            self._collecting_seconds += passed
            self._collecting_idle += idle
        self._now = at
        if at > self._alive_until:
            self._alive_until = at + 20.0
            with self.database.session() as session:
                session.execute(update(Worker).values(seen_at=START + timedelta(seconds=at)))
                if self._collecting and self._begun:  # only then does anything read the times of the runs
                    ran = [{"id": run_id, "ran_seconds": at - begun} for run_id, begun in self._begun.items()]
                    session.execute(update(Run), ran)

    def _submit(self, spec: AnySpec, owner: str) -> str:
        with self.database.session() as session:
            return submit(session, "pretrain", spec, owner=owner).id

    def _on_short(self, _: None) -> None:
        self._submit(self._short, "everybody")
        self._wake()

    def _on_gang(self, _: None) -> None:
        self._day.submitted += 1
        self._collecting[self._submit(self._wide, "team")] = self._now
        self._wake()

    def _on_look(self, name: str) -> None:
        self._looking.discard(name)
        if name in self._seats:
            self._claim(name)

    def _on_end(self, ended: tuple[Claim, list[str]]) -> None:
        claim, names = ended
        del self._begun[claim.run_id]
        with self.database.session() as session:
            transition(lock_with_lease(session, claim), State.SUCCEEDED, lease_token=None, lease_owner=None)
        for name in names:
            self._idle.add(name)
        for name in names:
            self._claim(name)

    def _wake(self) -> None:
        """A run was submitted: idle and waiting workers look at the queue."""
        for name in sorted(self._idle | self._seats.keys()):
            self._claim(name)

    def _claim(self, name: str, already_ran: float = 0.0) -> None:
        self._keep_queue_filled()
        seat = self._seats.get(name)
        with self.database.session() as session:
            claimed = claim_next(session, name, LEASE_SECONDS, ("cpu",), seat=seat)
        self._idle.discard(name)
        self._seats.pop(name, None)
        if isinstance(claimed, MemberLease):
            self._seats[name] = claimed
            if name not in self._looking:
                self._looking.add(name)
                self._at(self._now + LOOK_SECONDS, "look", name)
        elif claimed is None:
            self._idle.add(name)
        else:
            short = claimed.spec["timeout_seconds"] == SHORT_SECONDS
            self._day.backfilled += bool(self._collecting) and short
            self._start(claimed, name, already_ran)

    def _start(self, claim: Claim, name: str, already_ran: float) -> None:
        names = [name]
        self._begun[claim.run_id] = self._now - already_ran
        if claim.nodes > 1:
            self._day.waits.append(self._now - self._collecting.pop(claim.run_id))
            with self.database.reading() as session:
                rows = session.scalars(select(GangMemberRow.worker).where(GangMemberRow.run_id == claim.run_id))
                names = sorted({name, *rows})
            for each in names:
                self._seats.pop(each, None)
        # a run ends a little before its limit
        lasts = claim.spec["timeout_seconds"] * self._rng.uniform(0.97, 1.0)
        self._at(self._now + max(1.0, lasts - already_ran), "end", (claim, names))

    def _keep_queue_filled(self) -> None:
        """More one-hour runs wait than workers become free in a quarter of an hour."""
        backlog = len(self._names) // 4
        waiting = select(func.count()).where(Run.state == State.QUEUED.value, Run.nodes == 1)
        with self.database.reading() as session:
            missing = backlog - session.scalars(waiting).one()
        for _ in range(missing):
            self._submit(self._long, "everybody")
