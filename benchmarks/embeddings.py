"""Images a second embedded over HTTP by many clients, compared with a plain FastAPI route around OpenCLIP.

Each runs alone on this machine, clients included: one image a request, ViT-B/32, fresh weights.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.encoder import TINY, VIT_B_32, register_encoder, write_encoder
from benchmarks.load import LoadPlan, run_load, summarize_load
from benchmarks.service import plain_route, running_api

SIZES = {"ViT-B-32": VIT_B_32, "tiny": TINY}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--few", type=int, default=3, help="clients of another load: what batches gain at low latency")
    parser.add_argument("--requests", type=int, default=600, help="that are counted, each time")
    parser.add_argument("--warm-up", type=int, default=64, help="before them, not counted")
    parser.add_argument("--model", choices=sorted(SIZES), default="ViT-B-32", help="ours; tiny is for trying it out")
    parser.add_argument("--plain", default="ViT-B-32", help="OpenCLIP's name of the other one")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="ours")


def main(options: argparse.Namespace) -> None:
    print(json.dumps(measure(options), indent=1))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Ours with all clients, a few and one, then the plain route with all. Raises: UserError if one does not start."""
    with TemporaryDirectory(prefix="lcl-bench-encoder-") as folder:
        write_encoder(Path(folder) / "encoder", SIZES[options.model])
        more = {"LCL_DATA_ROOTS": folder, "LCL_INFERENCE_PRECISION": options.precision}
        with running_api(options.database, env=more) as api:
            register_encoder(api, Path(folder) / "encoder")
            plan = LoadPlan(api.url, "embeddings", [api.key], options.clients, options.requests, options.warm_up)
            batching = {"images": _loads(plan, options.few)}
            texts = replace(plan, traffic="text embeddings", requests=8 * plan.requests, warm_up=8 * plan.requests)
            batching["texts"] = _loads(texts, options.few)
    with plain_route("embed", options.plain) as url:
        plain = run_load(
            LoadPlan(url, "plain embeddings", ["none"], options.clients, options.requests, options.warm_up)
        )
    ours, theirs = batching["images"]["many"]["items_per_s"], summarize_load(plain, "items")
    return {
        "model": options.model,
        "precision": options.precision,
        "clients": options.clients,
        "few": options.few,
        **batching,
        "plain": theirs,
        "ratio": round(ours / theirs["items_per_s"], 2),
    }


def _loads(plan: LoadPlan, few: int) -> dict[str, Any]:
    """Loads of all clients, of a few and of one; the few's gain by batching, and their p99 by the median of one."""
    count = max(plan.requests // 3, 8)
    loads = {
        "many": run_load(plan),
        "few": run_load(replace(plan, clients=few, requests=count, warm_up=count // 4)),
        "one": run_load(replace(plan, clients=1, requests=count // 2, warm_up=4)),
    }
    summaries: dict[str, Any] = {name: summarize_load(result, "items") for name, result in loads.items()}
    some, one = summaries["few"], summaries["one"]
    gain, slower = some["items_per_s"] / one["items_per_s"], some["p99_ms"] / one["p50_ms"]
    return {**summaries, "gain": round(gain, 2), "few_p99_by_one_p50": round(slower, 2)}
