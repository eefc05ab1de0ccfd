"""The demonstration's last word: what the encoder can do, beside what chance and an untrained one can."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from deploy.demo import Outcome
from deploy.screen import clock

Json = dict[str, Any]
SHOWN = {
    ("retrieval", "IR@5"): "text → image, R@5",
    ("retrieval", "TR@5"): "image → text, R@5",
    ("classification", "acc@1"): "class, top-1",
    ("zero_shot_classification", "acc@1"): "named class, top-1",
    ("few_shot", "acc@1"): "few-shot, top-1",
}


def print_report(console: Console, outcome: Outcome) -> None:
    console.print()
    console.print(result_table(outcome.evaluate["result"]))
    for line in facts(outcome):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def result_table(result: Json) -> Table:
    """The main measurements, one a line; what was not measured is a dash. ``result`` is an evaluate run's."""
    shown = [row for row in result["rows"] if (row["task"], row["metric"]) in SHOWN]
    splits = ", ".join(dict.fromkeys(row["split"] for row in shown))
    title = f"The encoder on {splits}: drawings by artists it never saw"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("test", "with", "encoder", "chance", "untrained", "choices"):
        table.add_column(heading, justify="left" if heading in ("test", "with") else "right")
    for row in shown:
        values = (number(row[name]) for name in ("value", "chance", "untrained"))
        choices = "–" if row["candidates"] is None else f"{row['candidates']:,}"
        table.add_row(SHOWN[row["task"], row["metric"]], _with(row), *values, choices)
    return table


def _with(row: Json) -> str:
    """What was asked for, and whether the encoder was trained further for it."""
    return f"{row['variant']}, full" if row.get("transfer") == "full" else row["variant"]


def number(value: float | None) -> str:
    """Three decimals without the zero before the point, as tables of the field have them."""
    return "–" if value is None else f"{value:.3f}".removeprefix("0")


def facts(outcome: Outcome) -> list[str]:
    """How long the training took and what came of it."""
    encoder = outcome.pretrain["result"]["encoder"]
    collection = outcome.index["result"]["collection"]
    return [
        f"Training took {clock(encoder['seconds'])} min ({encoder['seconds']:.0f} s): {encoder['steps']:,} steps, "
        f"{encoder['images_seen']:,} pictures, {encoder['parameters'] / 1e6:.1f} M parameters.",
        f"Collection {collection['name']!r} holds {collection['images']:,} pictures and {collection['texts']:,} texts.",
    ]
