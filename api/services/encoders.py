"""Registered encoders: loading with an integrity check, and comparison of two encoders' evaluations.

Damage on the server is not a fault of the request: the response names the encoder and who can restore it, the log names
the path. Differences are tested pairwise where both evaluations' predictions are still stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy.orm import Session

from api.core.errors import Problem
from api.core.state import AppState
from lcl_core.common.errors import UserError
from lcl_core.db import registry
from lcl_core.db.models import EncoderRow

if TYPE_CHECKING:
    from lcl_core.serving.batched_engine import BatchedEngine


log = structlog.get_logger(__name__)
CHANGED, DAMAGED = "encoder_changed", "encoder_damaged"
_UNREADABLE = ("bad_encoder", "encoder_unhealthy", "encoder_unreadable")


def open_encoder(context: AppState, session: Session, reference: str) -> tuple[str, BatchedEngine]:
    """Its id, and itself in memory. Ends the session: a connection is not held while it is loaded, or runs.

    Raises: UserError; Problem as ``load_registered``.
    """
    row = registry.get_encoder(session, reference)
    directory = context.artifacts.folder(session, row.path)
    session.close()
    return row.id, load_encoder(context, row, directory)


def load_encoder(context: AppState, row: EncoderRow, directory: Path) -> BatchedEngine:
    """The encoder of a row, whose files lie in ``directory``.

    One that was imported is examined in a process of its own, once, before anything here reads it.

    Raises: Problem 409 ``encoder_changed`` or ``encoder_damaged``; UserError.
    """
    with damage_as_problem(row, directory):
        imported = "imported_from" in row.info  # rather than made by a run, or part of the product
        found = context.inference().encoder(directory, registry.registered_files(row), imported=imported)
        if found.hash != row.hash:  # of a row that names no files
            raise UserError("the weights changed since it was registered (sha256 differs)", code=CHANGED)
        return found


@contextmanager
def damage_as_problem(row: EncoderRow, directory: Path) -> Iterator[None]:
    """What is wrong with the files of a registered encoder is told by its name, and without places of the server.

    Raises: Problem 409; whatever else the block raises.
    """
    try:
        yield
    except UserError as error:
        if error.code not in (CHANGED, *_UNREADABLE):
            error.file = None
            raise
        log.error("encoder_damaged", encoder=row.id, error=str(error))
        reason = _without_paths(error, directory)
        way_out = (
            f"an admin can restore them from a backup; its owner ({row.owner}) or an admin can import the encoder "
            "again and delete this one"
        )
        if error.code == CHANGED:
            raise Problem(409, CHANGED, f"encoder {row.name!r} ({row.id}): {reason}; {way_out}") from error
        message = f"the files of encoder {row.name!r} ({row.id}) cannot be used on the server: {reason}; {way_out}"
        raise Problem(409, DAMAGED, message) from error


def _without_paths(error: UserError, directory: Path) -> str:
    reason = error.message.partition("; ")[0]
    for path in (str(directory.resolve()), str(directory)):
        reason = reason.replace(path, "its directory")
    return reason


# What makes two figures comparable: the same question on the same data.
COMPARISON_KEYS = ("task", "split", "variant", "transfer", "metric", "dataset", "dataset_hash")
_TEST_KEYS = COMPARISON_KEYS[:5]
_RESAMPLES = 2000  # a request can wait for so many, also on large splits

Json = dict[str, Any]


def compare_encoders(left: Sequence[Json], right: Sequence[Json]) -> list[Json]:
    """One row a figure that both have, from the newest evaluation of each; ``difference`` is right minus left."""
    first, second = _newest(left), _newest(right)
    rows = []
    for key, row in first.items():
        if key in second:
            before, after = row["value"], second[key]["value"]
            values = {"left": before, "right": after, "difference": _difference(before, after)}
            runs = {"left_run": row.get("run_id"), "right_run": second[key].get("run_id")}
            rows.append({**dict(zip(COMPARISON_KEYS, key, strict=True)), **values, "chance": row.get("chance"), **runs})
    return rows


def with_significance(rows: Sequence[Json], records_of: Callable[[str], Path]) -> list[Json]:
    """The rows with ``interval`` (95 %, of the difference), ``p`` and ``units`` where both runs' answers are at hand.

    Args:
        records_of: the folder of a run's answers by its id; raises UserError for what the store does not give.

    The value of both over the units in common may differ from the row's where one run was asked more.
    """
    pairs = dict.fromkeys((row["left_run"], row["right_run"]) for row in rows)
    found = {key: facts for runs in pairs for key, facts in _paired_tests(runs, records_of).items()}
    return [
        {**row, **found.get((row["left_run"], row["right_run"], *(row[name] for name in _TEST_KEYS)), {})}
        for row in rows
    ]


def _paired_tests(
    runs: tuple[str | None, str | None], records_of: Callable[[str], Path]
) -> dict[tuple[Any, ...], Json]:
    """Tests of two runs by (left run, right run, question); none where answers are missing or unreadable."""
    from lcl_core.evaluation.significance import compare_runs  # numpy: not at start-up

    try:
        folders = [records_of(str(run)) for run in runs]
        if not all((folder / "index.json").is_file() for folder in folders):
            return {}
        found = compare_runs(*folders, draws=_RESAMPLES)
    except UserError:
        return {}
    return {
        (*runs, *(getattr(each, name) for name in _TEST_KEYS)): {
            "interval": list(each.interval), "p": each.p, "units": each.count,
        }
        for each in found
    }  # fmt: skip


def _newest(rows: Sequence[Json]) -> dict[tuple[Any, ...], Json]:
    found: dict[tuple[Any, ...], Json] = {}
    for row in rows:  # newest first
        found.setdefault(tuple(row.get(key) for key in COMPARISON_KEYS), row)
    return found


def _difference(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else right - left
