"""The report of an examination, on the terminal."""

from __future__ import annotations

from typing import Any

import typer

from api.cli.common import show_table

Json = dict[str, Any]
# duplicates, and what readers of pages leave out on purpose
HARMLESS = ("duplicate image", "duplicate document", "small picture", "long picture", "repeated picture")
KINDS = {"matched": ("matched", "matched"), "sequence": ("sequence", "sequences"), "pair": ("pair", "pairs")}


def worrying(report: Json) -> bool:
    """Is there any problem but duplicates and icons?"""
    return any(reason not in HARMLESS for reason in report["reasons"])


def show_report(report: Json) -> None:
    """Counts, distributions in one line each, problems, and the first of them by file and line."""
    kinds = ", ".join(f"{number:,} {KINDS[kind][number != 1]}" for kind, number in report["kinds"].items())
    rows: list[tuple[object, object]] = [
        ("records", kinds if len(report["kinds"]) == 1 else f"{report['documents']:,}: {kinds or 'none'}"),
        ("images", f"{report['images']:,} ({report['distinct_images']:,} different contents)"),
        (report["length_unit"], f"{report['tokens']:,}"),
    ]
    rows += [(name.replace("_", " "), _spread(histogram)) for name, histogram in report["histograms"].items()]
    formats = ", ".join(f"{name} {number:,}" for name, number in report["image_formats"].items())
    traits = ", ".join(f"{name} {number:,}" for name, number in report["image_traits"].items())
    rows += [("image formats", formats), ("image traits", traits)]
    show_table(("what", "how many"), [row for row in rows if row[1]], "")
    problems = [(reason, f"{number:,}") for reason, number in report["reasons"].items()]
    show_table(("problem", "how often"), problems, "no problems")
    for finding in report["first"]:
        place = f"{finding['file']}:{finding['line']}" if finding["line"] else finding["file"]
        typer.secho(f"{place}: {finding['reason']}: {finding['detail']}", fg="red", err=True)
    more = report["quarantined"] + report["not_listed"] - len(report["first"])
    if more > 0:
        typer.secho(f"and {more:,} more: --out FOLDER fetches quarantine.jsonl", fg="red", err=True)


def _spread(histogram: Json) -> str:
    if not histogram["count"]:
        return ""
    mean = histogram["total"] / histogram["count"]
    return f"{histogram['least']:g} to {histogram['most']:g}, mean {mean:.3g}"
