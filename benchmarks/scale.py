"""What grows with ranks, queued runs, workers and records: counts, bytes and processor time.

Every figure has a ``tag``: ``measured``; ``simulated``, by the product's code with a made-up cluster or clock; or
``extrapolated``, by the ``fit`` that it names from the figures that it names. docs/scale.md quotes them.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from sqlalchemy import event

from benchmarks.claims import insert_runs
from lcl_core.data.sampling.packing import Cursor
from lcl_core.data.sampling.shuffle import BlockOrder, Blocks
from lcl_core.db import queue
from lcl_core.db.session import Database
from lcl_core.db.workers import WorkerIdentity
from workers import maintenance
from workers.settings import WorkerSettings

Figure = dict[str, Any]
MEASURED, SIMULATED, EXTRAPOLATED = "measured", "simulated", "extrapolated"
OWNERS = 100
WAITING = 64  # documents that a rank's packer holds back, of as many digits as its position
BLOCKS = Blocks(records=256, window=64)
EMBEDDING, PAIRS = 512, 64  # numbers of a vector, pairs of a rank


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--long", action="store_true", help="larger sizes; takes some minutes more")
    parser.add_argument("--only", choices=sorted(MEASUREMENTS), action="append", help="these measurements alone")


def main(options: argparse.Namespace) -> None:
    chosen = options.only or sorted(MEASUREMENTS)
    print(json.dumps({name: MEASUREMENTS[name](options.long) for name in chosen}, indent=1))


def resume(long: bool) -> list[Figure]:
    """Files and bytes that a rank opens to resume on as many ranks as have written."""
    from benchmarks import fake_ranks

    figures: list[Figure] = []
    for ranks in (8, 64) if long else (8, 32):
        with TemporaryDirectory(prefix="lcl-bench-") as folder:
            fake_ranks.write_checkpoint(Path(folder), ranks)
            loads = fake_ranks.load(Path(folder), ranks)
            opened = max(len(files) for files, *_ in loads)
            shares = [_tensor_bytes(files) / fake_ranks.local_bytes(into) for files, into, _ in loads]
        name, share = "bytes of its files / of its shard", round(max(shares), 3)
        figures.append({"figure": "opens of a rank", "ranks": ranks, "value": opened, "tag": SIMULATED})
        figures.append({"figure": name, "ranks": ranks, "value": share, "tag": SIMULATED})
    return figures


def _tensor_bytes(files: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in files if path.suffix == ".safetensors")


def claims(long: bool) -> list[Figure]:
    """Instructions of SQLite's machine that one claim takes."""
    figures: list[Figure] = []
    for depth in (1_000, 10_000, 100_000) if long else (1_000, 20_000):
        with TemporaryDirectory(prefix="lcl-bench-") as folder:
            database = Database(f"sqlite:///{folder}/lcl.db")
            try:
                database.migrate()
                insert_runs(database, depth, OWNERS)
                value = instructions_of_a_claim(database, queue.claim_next)
            finally:
                database.dispose()
        figures.append({"figure": "SQLite instructions of a claim", "queued": depth, "value": value, "tag": MEASURED})
    return figures


def instructions_of_a_claim(database: Database, claim: Callable[..., object]) -> int:
    """Instructions of SQLite's machine for ``claim(session, worker)``, which has to find a run."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    with database.session() as session:
        driver: Any = session.connection().connection.driver_connection
        driver.set_progress_handler(count, 1)
        claimed = claim(session, "worker-1")
        driver.set_progress_handler(None, 0)
    assert claimed is not None
    return steps


def idle_workers(long: bool) -> list[Figure]:
    """Statements a minute of workers that have nothing to do, with the default settings and a simulated clock."""
    minutes = 10 if long else 3
    alone, together = (_idle_statements(workers, minutes) for workers in (1, 5))
    return [
        {"figure": "statements a minute of the first worker", "value": alone, "tag": SIMULATED},
        {"figure": "of one more worker", "value": round((together - alone) / 4, 1), "tag": SIMULATED},
    ]


def _idle_statements(workers: int, minutes: int) -> float:
    seconds, statements = 0.0, 0

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        nonlocal statements
        statements += not statement.startswith("BEGIN")

    with TemporaryDirectory(prefix="lcl-bench-") as folder:
        start = datetime(2030, 1, 1, tzinfo=UTC)
        database = Database(f"sqlite:///{folder}/lcl.db", clock=lambda: start + timedelta(seconds=seconds))
        database.migrate()
        event.listen(database.engine, "after_cursor_execute", note)
        settings = WorkerSettings(home=Path(folder), database_url=database.url)
        broker: Any = SimpleNamespace(wake=_heard, wake_all=_heard, ping=_heard)
        idle: Any = SimpleNamespace(notify=lambda: None)
        clock = SimpleNamespace(monotonic=lambda: seconds, time=lambda: 0.0)
        with patch.object(maintenance, "time", clock), patch.object(maintenance, "boot_time", lambda: seconds):
            maintainers = [
                maintenance.QueueMaintenance(
                    database, broker, idle, WorkerIdentity(f"w-{number}", "host", 1, 1, ("cpu",)), settings
                )
                for number in range(workers)
            ]
            for minute in range(minutes + 1):
                if minute == 1:  # in the first one the maintainer is elected
                    statements = 0
                for _ in range(round(60 / settings.reap_seconds)):
                    seconds += settings.reap_seconds
                    for member in maintainers:
                        member._heartbeat_and_round()
        database.dispose()
    return round(statements / minutes, 1)


def _heard(_: object) -> bool:
    return True


def parts(long: bool) -> list[Figure]:
    """Peak memory of the driver of a conversion in parts, each in a process of its own."""
    counts = (100_000, 10_000_000) if long else (100_000, 1_000_000)
    peaks = {}
    for records in counts:
        with TemporaryDirectory(prefix="lcl-bench-") as folder:
            command = [sys.executable, "-m", "benchmarks.parts_driver", str(records), folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            peaks[records] = int(json.loads(done.stdout)["peak_bytes"])
    few, many = counts
    growth = (peaks[many] - peaks[few]) / (many - few)
    name, ratio = "peak bytes of the driver", round(peaks[many] / peaks[few], 3)
    figures = [{"figure": name, "records": count, "value": peak, "tag": SIMULATED} for count, peak in peaks.items()]
    figures.append({"figure": "peak at the most records / at the fewest", "value": ratio, "tag": SIMULATED})
    at_most, fit = round(peaks[many] + growth * (1e8 - many)), f"line through {few} and {many} records"
    return [*figures, {"figure": name, "records": 100_000_000, "value": at_most, "tag": EXTRAPOLATED, "fit": fit}]


def conversion(long: bool) -> list[Figure]:
    """Processor time of a photograph, between a small and a larger corpus: without the start of the processes."""
    few, many = (100, 700) if long else (40, 160)
    spent = []
    for images in (few, few, many):  # the first one's driver imports
        with TemporaryDirectory(prefix="lcl-bench-") as folder:
            spent.append(_conversion_seconds(Path(folder), images))
    name = "milliseconds of processor time a photograph of 1024 x 768"
    shares = [round(1000 * (more - less) / (many - few), 2) for less, more in zip(*spent[1:], strict=True)]
    return [
        {"figure": f"{name}: {part}", "photographs": many - few, "value": share, "tag": MEASURED}
        for part, share in zip(("driver", "workers"), shares, strict=True)
    ]


def _conversion_seconds(folder: Path, images: int) -> tuple[float, float]:
    """Of the driver, and of one worker with its start."""
    from lcl_core.data.formats import open_reader
    from lcl_core.data.shards.convert_parts import convert_parts
    from lcl_core.parts.process_pool import ProcessPoolRunner

    write_photographs(folder / "corpus", images)
    before = [resource.getrusage(which) for which in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    convert_parts(
        open_reader(folder / "corpus"),
        folder / "made",
        folder / "work",
        256 << 20,
        processes=2,
        runner=partial(ProcessPoolRunner, 1),
        part_items=16,
    )
    after = [resource.getrusage(which) for which in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    driver, workers = (
        now.ru_utime + now.ru_stime - then.ru_utime - then.ru_stime for then, now in zip(before, after, strict=True)
    )
    return driver, workers


def write_photographs(folder: Path, images: int) -> None:
    import numpy as np
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    rows = ["image,caption"]
    for number in range(images):
        image = Image.fromarray(np.roll(noise, number, 0)).resize((1024, 768), Image.Resampling.BICUBIC)
        image.save(folder / "images" / f"{number}.jpg", quality=85)
        rows.append(f"{number}.jpg,image {number}")
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")


def positions(_: bool) -> list[Figure]:
    """Bytes of a rank's data position in a checkpoint: that of the order by blocks is that of the full order."""
    figures: list[Figure] = []
    for documents in (10_000, 1_000_000, 100_000_000):
        order = BlockOrder(documents, BLOCKS, 1)
        last = documents - 1
        assert 0 <= order[last] < documents, "from the position alone, whatever came before"
        cursor = Cursor(last, tuple(range(last - WAITING, last)))
        size = len(json.dumps(cursor.to_json()).encode())
        name = f"bytes of the position of a rank that holds {WAITING} documents back"
        figures.append({"figure": name, "documents": documents, "value": size, "tag": MEASURED})
    return figures


def contrastive(long: bool) -> list[Figure]:
    """Bytes that the contrastive loss of one rank keeps for the backward pass, by the number of ranks."""
    worlds = (1, 8, 64, 256) if long else (1, 8, 64)
    kept = {world: _kept_bytes(world) for world in worlds}
    name = f"bytes kept by the loss, {PAIRS} pairs a rank, vectors of {EMBEDDING}"
    figures = [{"figure": name, "ranks": world, "value": size, "tag": SIMULATED} for world, size in kept.items()]
    last, before = worlds[-1], worlds[-2]
    slope = (kept[last] - kept[before]) / (last - before)
    return [
        *figures,
        {"figure": name, "ranks": 1024, "value": round(kept[last] + slope * (1024 - last)), "tag": EXTRAPOLATED,
         "fit": f"line through {before} and {last} ranks"},
    ]  # fmt: skip


def _kept_bytes(world: int) -> int:
    import torch
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from lcl_core.ops.contrastive_loss import contrastive_loss

    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        draw = torch.Generator().manual_seed(0)
        images, texts = (torch.randn(PAIRS, EMBEDDING, generator=draw, requires_grad=True) for _ in range(2))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = contrastive_loss(images, texts, torch.tensor(math.log(10.0)), counts=[PAIRS] * world)
        assert loss.loss.requires_grad
    finally:
        dist.destroy_process_group()
    return sum(storages.values())


MEASUREMENTS: dict[str, Callable[[bool], list[Figure]]] = {
    "claims": claims,
    "contrastive": contrastive,
    "conversion": conversion,
    "idle-workers": idle_workers,
    "parts": parts,
    "positions": positions,
    "resume": resume,
}
