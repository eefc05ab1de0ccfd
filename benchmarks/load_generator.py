"""Locust clients of ``benchmarks.load``. Importing this module patches the sockets of the process."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from dataclasses import asdict
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
    """Counts responses; those of the warm-up are not counted."""

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        self._responses = 0
        self._began = self._ended = 0.0
        self._latencies: list[float] = []
        self._wrong: Counter[str] = Counter()
        self.done = Event()

    def record(self, request: Request, status: int, seconds: float) -> None:
        self._responses += 1
        if status not in request.expected:
            self._wrong[f"{request.method} {request.path}: {status or 'no response'}"] += 1
        if self._responses == self._plan.warm_up:
            self._began = time.perf_counter()
        if self._responses > self._plan.warm_up:
            self._latencies.append(seconds)
        if self._responses == self._plan.warm_up + self._plan.requests:
            self._ended = time.perf_counter()
            self.done.set()

    def begin(self) -> None:
        self._began = time.perf_counter()

    def result(self) -> LoadResult:
        return LoadResult(self._ended - self._began, self._latencies, dict(self._wrong))


def generate_load(plan: LoadPlan) -> LoadResult:
    """Run ``plan``; returns after the last response."""
    counter = _ResponseCounter(plan)
    environment = Environment(user_classes=[_client_class(plan, counter)])
    runner = environment.create_local_runner()
    counter.begin()
    runner.start(plan.clients, spawn_rate=plan.clients)
    counter.done.wait()
    runner.quit()
    return counter.result()


def _client_class(plan: LoadPlan, counter: _ResponseCounter) -> type[FastHttpUser]:
    total = plan.warm_up + plan.requests
    requests = zip(range(total), TRAFFIC[plan.traffic](), strict=False)
    keys, first = cycle(plan.keys), time.perf_counter()

    class Client(FastHttpUser):
        host = plan.url
        concurrency = 1
        wait_time = constant(0)

        def on_start(self) -> None:
            self.headers = {"Authorization": f"Bearer {next(keys)}"}

        @task
        def send(self) -> None:
            number, request = next(requests, (0, None))
            if request is None:
                raise StopUser
            more: dict[str, Any] = {} if request.body is None else {"json": request.body}
            began = _wait_until_due(first + number / plan.rate) if plan.rate else time.perf_counter()
            response = self.client.request(request.method, request.path, headers=self.headers, **more)
            counter.record(request, response.status_code, time.perf_counter() - began)

    return Client


def _wait_until_due(moment: float) -> float:
    """Wait until a request is due and return that moment, from which its latency counts.

    The schedule is one for all clients: the time that a request waits for a free client belongs to its latency.
    """
    gevent.sleep(max(0.0, moment - time.perf_counter()))
    return moment


if __name__ == "__main__":
    print(json.dumps(asdict(generate_load(LoadPlan(**json.load(sys.stdin))))))
