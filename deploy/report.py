"""The demonstration's last word: what the encoder can do, beside what chance and an untrained one can."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from deploy.demo import Outcome
from deploy.screen import clock

Json = dict[str, Any]
SHOWN = {"IR@5": "text → image, R@5", "TR@5": "image → text, R@5", "acc@1": "probe, top-1"}


def print_report(console: Console, outcome: Outcome) -> None:
    console.print()
    console.print(result_table(outcome.evaluate["result"]))
    for line in facts(outcome):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def result_table(result: Json) -> Table:
    """The main measurements, one a line; what was not measured is a dash. ``result`` is an evaluate run's."""
    shown = [row for row in result["rows"] if row["metric"] in SHOWN]
    splits = ", ".join(dict.fromkeys(row["split"] for row in shown))
    title = f"The frozen encoder on {splits}: drawings by artists it never saw"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("test", "with", "encoder", "chance", "untrained", "choices"):
        table.add_column(heading, justify="left" if heading in ("test", "with") else "right")
    for row in shown:
        values = (number(row[name]) for name in ("value", "chance", "untrained"))
        table.add_row(SHOWN[row["metric"]], row["variant"], *values, f"{row['candidates']:,}")
    return table


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
