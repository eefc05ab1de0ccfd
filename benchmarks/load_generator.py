"""Locust clients of ``benchmarks.load``. Importing this module patches the sockets of the process."""

from __future__ import annotations

import time
from collections import Counter
from itertools import cycle
from typing import Any

import gevent
from gevent.event import Event
from locust import FastHttpUser, constant, task
from locust.env import Environment
from locust.exception import StopUser

from benchmarks.load import LoadPlan, LoadResult
from benchmarks.traffic import TRAFFIC, Request


class _ResponseCounter:
    """Counts answers as they come; those of the warm-up are forgotten."""

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        self._answered = 0
        self._began = self._ended = 0.0
        self._latencies: list[float] = []
        self._wrong: Counter[str] = Counter()
        self.done = Event()

    def note(self, request: Request, status: int, seconds: float) -> None:
        self._answered += 1
        if status not in request.expected:
            self._wrong[f"{request.method} {request.path}: {status or 'no answer'}"] += 1
        if self._answered == self._plan.warm_up:
            self._began = time.perf_counter()
        if self._answered > self._plan.warm_up:
            self._latencies.append(seconds)
        if self._answered == self._plan.warm_up + self._plan.requests:
            self._ended = time.perf_counter()
            self.done.set()

    def begin(self) -> None:
        self._began = time.perf_counter()

    def came(self) -> LoadResult:
        return LoadResult(self._ended - self._began, self._latencies, dict(self._wrong))


def generate_load(plan: LoadPlan) -> LoadResult:
    """Carry ``plan`` out; returns when every request of it has been answered."""
    tally = _ResponseCounter(plan)
    environment = Environment(user_classes=[_client_class(plan, tally)])
    runner = environment.create_local_runner()
    tally.begin()
    runner.start(plan.clients, spawn_rate=plan.clients)
    tally.done.wait()
    runner.quit()
    return tally.came()


def _client_class(plan: LoadPlan, tally: _ResponseCounter) -> type[FastHttpUser]:
    total = plan.warm_up + plan.requests
    asked = zip(range(total), TRAFFIC[plan.traffic](), strict=False)
    keys, first = cycle(plan.keys), time.perf_counter()

    class Client(FastHttpUser):
        host = plan.url
        concurrency = 1
        wait_time = constant(0)

        def on_start(self) -> None:
            self.headers = {"Authorization": f"Bearer {next(keys)}"}

        @task
        def ask(self) -> None:
            number, request = next(asked, (0, None))
            if request is None:
                raise StopUser
            more: dict[str, Any] = {} if request.body is None else {"json": request.body}
            began = _wait_until_due(first + number / plan.rate) if plan.rate else time.perf_counter()
            answer = self.client.request(request.method, request.path, headers=self.headers, **more)
            tally.note(request, answer.status_code, time.perf_counter() - began)

    return Client


def _wait_until_due(moment: float) -> float:
    """Wait for the moment at which a request is due, and return it: latency counts from there.

    Clients that each kept to a pace of their own would, after the first wait for one another, ask all at once ever
    after; and the time that a request waits for a client to be free would be nobody's.
    """
    gevent.sleep(max(0.0, moment - time.perf_counter()))
    return moment
