"""Text queries a second over HTTP against a large collection: flat out, then at a steady rate.

The collection is one that ``python -m benchmarks collection --out FOLDER`` has made, of 512 numbers a vector; the
texts go through a text tower of that width and four layers, with fresh weights.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.encoder import VIT_B_32, link_collection, register_encoder, write_encoder
from benchmarks.load import LoadPlan, run_load, summarize_load
from benchmarks.service import running_api
from lcl_core.collections.file_format import read_manifest
from lcl_core.common.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--collection", type=Path, required=True, help="folder that the other benchmark has made")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=4000, help="queries that are counted, either time")
    parser.add_argument("--warm-up", type=int, default=1000, help="before them, not counted")
    parser.add_argument("--rate", type=float, default=200.0, help="queries a second of the steady load")


def main(options: argparse.Namespace) -> None:
    print(json.dumps(measure(options), indent=1))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Both loads on one service. Raises: UserError for a folder that is no collection, or of another width."""
    manifest = read_manifest(options.collection)
    if manifest.dim != VIT_B_32["text_width"]:
        message = f"its vectors have {manifest.dim} numbers; make one with --width {VIT_B_32['text_width']}"
        raise UserError(message, code="bad_option", field="collection")
    with TemporaryDirectory(prefix="lcl-bench-encoder-") as folder:
        small = {**VIT_B_32, "vision_layers": 1}  # images are not asked for
        write_encoder(Path(folder) / "encoder", small)
        with running_api(options.database, env={"LCL_DATA_ROOTS": folder}) as api:
            link_collection(api, options.collection, register_encoder(api, Path(folder) / "encoder"))
            before = api.resident_bytes()
            plan = LoadPlan(api.url, "searches", [api.key], options.clients, options.requests, options.warm_up)
            flat_out = run_load(plan)
            steady = run_load(replace(plan, warm_up=options.clients, rate=options.rate))
            resident = api.resident_bytes()
    return {
        "vectors": manifest.images,
        "clients": options.clients,
        "flat_out": summarize_load(flat_out, "queries"),
        "steady": {"offered_per_s": options.rate, **summarize_load(steady, "queries")},
        "api_gib_before": round(before / 2**30, 3),
        "api_gib": round(resident / 2**30, 3),
    }
