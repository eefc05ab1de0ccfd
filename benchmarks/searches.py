"""Text queries a second over HTTP against a collection, by numbers of clients, flat out and at a steady rate.

``--plain`` compares them with a plain FastAPI route, in turn.

The collection is one that ``python -m benchmarks collection --out FOLDER`` has made, of as many numbers a vector as the
encoder's; by default a text tower of 512 and four layers, with fresh weights.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.encoder import VIT_B_32, link_collection, register_encoder, write_encoder
from benchmarks.load import LoadPlan, run_load, summarize_load
from benchmarks.service import plain_route, process_metric, running_api
from lcl_core.collections.collection import Collection
from lcl_core.encoders.export import export


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--collection", type=Path, required=True, help="folder that the other benchmark has made")
    parser.add_argument("--encoder", type=Path, help="folder of an encoder with texts")
    parser.add_argument("--clients", type=int, nargs="+", default=[32])
    parser.add_argument("--requests", type=int, default=4000, help="queries that are counted, each time")
    parser.add_argument("--warm-up", type=int, default=1000, help="before them, not counted")
    parser.add_argument("--rate", type=float, help="queries a second of a steady load")
    parser.add_argument("--plain", action="store_true", help="send each load to the plain route, too")


def main(options: argparse.Namespace) -> None:
    print(json.dumps(measure(options), indent=1))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All loads on one service; answers to texts of another width are ``wrong``. Raises: UserError: no collection."""
    vectors = Collection.open(options.collection).vectors()[1]
    with TemporaryDirectory(prefix="lcl-bench-encoder-") as folder, ExitStack() as stack:
        encoder = options.encoder
        if encoder is None:
            encoder = Path(folder) / "encoder"
            write_encoder(encoder, {**VIT_B_32, "vision_layers": 1})  # images are not asked for
        roots = {"LCL_DATA_ROOTS": str(encoder.resolve().parent)}
        api = stack.enter_context(running_api(options.database, env=roots))
        link_collection(api, options.collection, register_encoder(api, encoder.resolve()))
        before = api.resident_bytes()
        plan = LoadPlan(api.url, "searches", [api.key], 1, options.requests, options.warm_up)
        plans = {"ours": plan}
        if options.plain:
            export("huggingface", encoder, Path(folder) / "exported")
            np.save(Path(folder) / "vectors.npy", vectors.astype(np.float32))
            url = stack.enter_context(plain_route("search", f"{folder}/exported", f"{folder}/vectors.npy"))
            plans["plain"] = replace(plan, url=url, traffic="plain searches")
        loads = {
            f"{clients} clients": {name: _run(replace(each, clients=clients)) for name, each in plans.items()}
            for clients in options.clients
        }
        if options.rate:
            steady = replace(plan, clients=max(options.clients), warm_up=max(options.clients), rate=options.rate)
            loads[f"{options.rate:g} a second"] = {"ours": _run(steady)}
        resident = api.resident_bytes()
    gib = {"api_gib_before": round(before / 2**30, 3), "api_gib": round(resident / 2**30, 3)}
    return {"vectors": len(vectors), **loads, **gib}


def _run(plan: LoadPlan) -> dict[str, Any]:
    """Rates, latencies, and milliseconds of CPU that a request takes of the server."""
    before = process_metric(plan.url, "process_cpu_seconds_total")
    result = run_load(plan)
    cpu = process_metric(plan.url, "process_cpu_seconds_total") - before
    return {**summarize_load(result, "queries"), "cpu_ms": round(cpu / (plan.requests + plan.warm_up) * 1000, 3)}
