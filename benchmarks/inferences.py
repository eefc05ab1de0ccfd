"""Inference of every kind, one request in twenty with an invalid image: other failures, and growth of memory."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.encoder import DRAWINGS, TINY, link_collection, register_encoder, write_encoder
from benchmarks.load import LoadPlan, run_load, summarize_load
from benchmarks.service import running_api
from lcl_core.collections.writer import CollectionItem, build_collection
from lcl_core.common.errors import UserError

SIZES = {"drawings": DRAWINGS, "tiny": TINY}
ITEMS = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--first", type=int, default=1000, help="requests after which memory is measured first")
    parser.add_argument("--requests", type=int, default=10_000, help="and after which it is measured last")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--model", choices=sorted(SIZES), default="drawings", help="tiny is for trying it out")


def main(options: argparse.Namespace) -> None:
    if not 0 < options.first < options.requests:
        raise UserError("--first must be above 0 and below --requests", code="bad_option")
    print(json.dumps(measure(options), indent=1))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Wrong answers of good and of bad requests, and the memory at both marks. Raises: UserError."""
    sizes = SIZES[options.model]
    with TemporaryDirectory(prefix="lcl-bench-encoder-") as folder:
        write_encoder(Path(folder) / "encoder", sizes)
        _write_collection(Path(folder) / "collection", sizes["text_width"])
        with running_api(options.database, env={"LCL_DATA_ROOTS": folder}) as api:
            link_collection(api, Path(folder) / "collection", register_encoder(api, Path(folder) / "encoder"))
            plan = LoadPlan(api.url, "inferences", [api.key], options.clients, options.first)
            early = run_load(plan)
            before = api.resident_bytes()
            late = run_load(replace(plan, requests=options.requests - options.first))
            after = api.resident_bytes()
    return {
        "requests": options.requests,
        "of_them_bad": options.requests // 20,
        "wrong": {what: early.wrong.get(what, 0) + late.wrong.get(what, 0) for what in early.wrong | late.wrong},
        **summarize_load(late, "requests"),
        "resident_mib": [round(size / 2**20, 1) for size in (before, after)],
        "growth": round(after / before, 3),
    }


def _write_collection(place: Path, width: int) -> None:
    vectors = np.random.default_rng(0).standard_normal((ITEMS, width))
    items = [CollectionItem(f"{number}.png", b"", "image/png") for number in range(ITEMS)]
    build_collection(place, items, vectors, {}, name="made up", encoder_hash="0" * 64)
