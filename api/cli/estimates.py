"""``lcl estimate``: what a run would take, before it is submitted."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.common import duration, settings_of, show_json, show_table, spec_of

Json = dict[str, Any]
SURE = {
    "measured": "as runs of this very setup went",
    "scaled": "from runs of other sizes",
    "assumed": "a guess: no run has told a rate",
}
_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def estimate(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="pretrain: other kinds are not estimated")] = "pretrain",
    spec: Annotated[str | None, typer.Option(help="JSON file with the spec; - reads standard input")] = None,
    preset: Annotated[str | None, typer.Option(help="named starting point")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="field.name=value, over spec and preset; repeatable")
    ] = None,
    resource: Annotated[str | None, typer.Option(help="cpu or gpu, which a worker must offer")] = None,
) -> None:
    """What a run would take: time, memory, operations, disk. Nothing is queued.

    Example: lcl estimate pretrain --preset sample --set steps=5000
    """
    settings = settings_of(context)
    with settings.client() as client:
        found = client.estimate(kind, spec_of(spec, preset, assignments), resource)
    if settings.as_json:
        show_json(found)
        return
    show_table(("what", "how much"), _rows(found), "")
    for sentence in found["basis"]:
        typer.echo(sentence)


def _rows(found: Json) -> list[tuple[str, str]]:
    seconds, memory, samples, step = (found[name] for name in ("seconds", "memory_bytes", "samples", "per_step"))
    return [
        ("time", f"{duration(seconds['expected'])} ({_span(seconds, duration)}), {SURE[found['certainty']]}"),
        (f"peak memory ({found['device']}, a process)", f"{size(memory['expected'])} ({_span(memory, size)})"),
        ("parameters", f"{found['parameters']:,}"),
        ("useful operations", f"{short(found['flops'])}FLOP ({short(found['flops_per_step'])} a step)"),
        ("pictures", f"{samples['images']:,.0f} ({step['images']:,.0f} a step)"),
        ("documents", f"{samples['documents']:,.0f} ({step['documents']:,.0f} a step)"),
        ("tokens", f"{samples['tokens']:,.0f} ({step['tokens']:,.0f} a step)"),
        ("disk", f"{size(found['disk_bytes'])} ({size(found['checkpoint_bytes'])} a checkpoint)"),
    ]


def _span(found: Json, words: Any) -> str:
    return f"{words(found['low'])} to {words(found['high'])}"


def size(count: float) -> str:
    """Bytes: ``1.5 GiB``, ``73.4 MiB``."""
    unit, word = (2**30, "GiB") if count >= 2**30 else (2**20, "MiB")
    return f"{count / unit:,.3g} {word}" if count < 1000 * unit else f"{count / unit:,.0f} {word}"


def short(value: float) -> str:
    """``6411265`` -> ``6.41 M``."""
    for size, unit in _UNITS:
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} "
