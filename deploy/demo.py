"""Demonstration: pre-train, evaluate and index on the sample corpus over REST, with progress and a result table."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from api.cli.output import duration, print_table
from api.cli.runs import format_metrics
from api.client import Client
from api.client.payloads import FINAL_STATES
from lcl_core.common.errors import UserError

Json = dict[str, Any]
POLL_SECONDS = 0.5
LINE_SECONDS = 5.0  # between lines of progress
LOG_TAIL_LINES = 15
REPORTED_METRICS = {
    ("retrieval", "IR@5"): "text → image, R@5",
    ("retrieval", "TR@5"): "image → text, R@5",
    ("classification", "acc@1"): "class, top-1",
    ("zero_shot_classification", "acc@1"): "named class, top-1",
}


def run_demo(client: Client, check: Callable[[], None]) -> None:
    """Three runs, one after the other, then their results.

    Args:
        check: called at every poll; raises when a part of the service has died.

    Raises:
        UserError: ``demo_failed`` with the run's reason, when one did not succeed.
    """
    pretrain = follow_run(client, check, "pretrain", {"preset": "sample_resnet"})
    encoder = pretrain["encoder_id"]
    # full transfer, which is in the preset too, would take as long as the training
    evaluation = {"preset": "sample", "encoder": encoder, "classification": {"transfer": ["frozen"]}}
    evaluate = follow_run(client, check, "evaluate", evaluation)
    index = follow_run(client, check, "index", {"encoder": encoder, "collection": "sample"})
    made, collection = pretrain["result"]["encoder"], index["result"]["collection"]
    _print_scores(evaluate["result"]["rows"])
    _say(
        f"Training took {duration(made['seconds'])}: {made['steps']:,} steps, {made['images_seen']:,} images, "
        f"{made['parameters'] / 1e6:.1f} M parameters.\n"
        f"Collection {collection['name']!r} holds {collection['images']:,} images and {collection['texts']:,} texts."
    )


def follow_run(client: Client, check: Callable[[], None], kind: str, spec: Json) -> Json:
    """Submit a run and print a line of progress every few seconds until its end. Returns: the run."""
    run = client.submit(kind, spec, f"demo-{kind}", ["demo"])
    last, next_line = "", 0.0
    while run["state"] not in FINAL_STATES:
        check()
        line = run["progress"] or {}
        step = f"  step {line['step']:,}/{line['total_steps']:,}" if line.get("total_steps") else ""
        text = f"{run['state']}{step}  {format_metrics(line)}".rstrip()
        if time.monotonic() >= next_line and text != last:
            last, next_line = text, time.monotonic() + LINE_SECONDS
            _say(f"{kind:<9} {text}")
        time.sleep(POLL_SECONDS)
        run = client.run(run["id"])
    _say(f"{kind:<9} {run['state']}")
    if run["state"] != "succeeded":
        reason = (run["reason"] or {}).get("message", "no reason was given")
        log = client.logs(run["id"])["text"].splitlines()[-LOG_TAIL_LINES:]
        message = f"{kind} run {run['id']} {run['state']}: {reason}; its log ends:"
        raise UserError("\n    ".join([message, *log]), code="demo_failed")
    return run


def _print_scores(rows: list[Json]) -> None:
    """Main metrics of an evaluation, one a line; nothing for what was not measured."""
    shown = []
    for row in rows:
        if title := REPORTED_METRICS.get((row["task"], row["metric"])):
            variant = f"{row['variant']}, full" if row.get("transfer") == "full" else row["variant"]
            scores = (None if row[name] is None else f"{row[name]:.3f}" for name in ("value", "chance", "untrained"))
            shown.append((title, variant, *scores, row["candidates"]))
    _say("\nThe encoder on drawings by artists it never saw:")
    print_table(("test", "with", "encoder", "chance", "untrained", "choices"), shown, "nothing was measured")


def _say(text: str) -> None:
    print(text, flush=True)
