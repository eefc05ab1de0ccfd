"""All cases, and the table of them in the documentation."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from tests.api.hostile import bombs, encoders, framing, owners, parameters, paths, swelling, wire, words
from tests.api.hostile.case import CUT, DATA, ENCODER, HOME, OWN, THEIRS, TRAP, Case

CASES: list[Case] = sorted(
    [
        *paths.CASES,
        *bombs.CASES,
        *encoders.CASES,
        *swelling.CASES,
        *wire.CASES,
        *words.CASES,
        *framing.CASES,
        *parameters.CASES,
        *owners.CASES,
    ],
    key=lambda case: case.family.casefold(),
)
DOCUMENT = Path(__file__).parents[3] / "docs" / "hostile_inputs.md"
HEAD = """# Hostile inputs

{count} requests that are rejected. They are sent with a submitter's key; those of browsers of other people without one.
Each gets the status of the table and a body in the common form of errors. The service writes nothing, discloses no file
of the machine, opens no pickle and connects to no address.
`tests/api/test_hostile_inputs.py` sends them all; `python -m tests.api.hostile` writes this page.
"""


def table() -> str:
    """The page."""
    parts = [HEAD.format(count=len(CASES))]
    for family, cases in groupby(CASES, key=lambda case: case.family):
        parts.append(f"## {family[:1].upper()}{family[1:]}\n\n| request | sent to | status |\n|---|---|---|")
        parts[-1] += "".join(f"\n{_row(case)}" for case in cases) + "\n"
    return "\n".join(parts)


def _row(case: Case) -> str:
    names = {DATA: "DATA", HOME: "HOME", THEIRS: "RUN", OWN: "RUN", TRAP: "HOST", ENCODER: "ENCODER", "@KEY@": "KEY"}
    verb, _, path = case.call.partition(" ")
    for mark, name in names.items():
        path = path.replace(mark, name)
    path = path if len(path) <= 60 else f"{path[:60]}…"
    status = " or ".join("closed" if status == CUT else str(status) for status in case.status)
    return f"| {case.name} | `{verb} {path}` | {status} |"
