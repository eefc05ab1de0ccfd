"""Locust clients of ``benchmarks.load``. Importing this module patches the sockets of the process."""

from __future__ import annotations

import base64
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count, cycle, product
from typing import Any

import gevent
import numpy as np
from gevent.event import Event
from locust import FastHttpUser, constant, task
from locust.env import Environment
from locust.exception import StopUser
from PIL import Image

from benchmarks.load import LoadPlan, LoadResult


@dataclass(frozen=True)
class Request:
    """``expected``: the status that is right."""

    method: str
    path: str
    body: dict[str, Any]
    expected: int = 200


def submissions() -> Iterator[Request]:
    """Small valid runs, none like another."""
    for number in count():
        spec = {"preset": "sample", "steps": number + 1, "seed": number % 2**31}
        yield Request("POST", "/v1/runs", {"kind": "pretrain", "name": f"run {number}", "spec": spec}, 202)


def embeddings() -> Iterator[Request]:
    """One image each, of the encoder called ``bench``."""
    for url in cycle(_images()):
        yield Request("POST", "/v1/embeddings", {"model": "bench", "input": url, "encoding_format": "base64"})


def text_embeddings() -> Iterator[Request]:
    for text in _texts():
        yield Request("POST", "/v1/embeddings", {"model": "bench", "input": text})


def plain_embeddings() -> Iterator[Request]:
    """The same images, as ``benchmarks.baseline_app`` takes them."""
    for url in cycle(_images()):
        yield Request("POST", "/embed", {"image": url})


def searches() -> Iterator[Request]:
    for text in _texts():
        yield Request("POST", "/v1/collections/bench/search", {"text": text, "k": 10, "match": "looks"})


def plain_searches() -> Iterator[Request]:
    for text in _texts():
        yield Request("POST", "/search", {"text": text, "k": 10})


def _texts() -> Iterator[str]:
    """Texts of three words, none like another."""
    words = [name + ending for name in ("cat", "bird", "lamp", "tree", "boat", "moon", "hand") for ending in ("", "s")]
    return map(" ".join, cycle(product(words, repeat=3)))


def _images(number: int = 64, side: int = 256) -> list[str]:
    """Data URLs of JPEGs with shapes and some noise, about 20 KB each."""
    random, urls = np.random.default_rng(0), []
    for _ in range(number):
        rough = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
        smooth = rough.resize((side, side), Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth, np.int16) + random.integers(-12, 13, (side, side, 3))
        file = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        urls.append("data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode())
    return urls


TRAFFIC: dict[str, Callable[[], Iterator[Request]]] = {
    "submissions": submissions,
    "embeddings": embeddings,
    "text embeddings": text_embeddings,
    "plain embeddings": plain_embeddings,
    "searches": searches,
    "plain searches": plain_searches,
}


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
        if status != request.expected:
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
            began = _wait_until_due(first + number / plan.rate) if plan.rate else time.perf_counter()
            response = self.client.request(request.method, request.path, headers=self.headers, json=request.body)
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
