"""Words that a shell offers when Tab is pressed: kinds and states of runs, presets, and names of what the service has.

The service is asked with a short deadline. Nothing is offered, and nothing printed, where it does not answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import typer

from api.client import ApiError, Client
from api.client.payloads import RUN_STATES, Json
from lcl_core.jobs import JOB_KINDS

SECONDS = 2.0
RUNS = 100  # newest runs and studies that are offered
Words = list[tuple[str, str]]  # each with what the shell shows beside it


def _completer(fetch: Callable[[Client, str | None], Iterable[tuple[str, str]]]) -> Callable[..., Words]:
    """``fetch`` receives a client, and the kind of run that the command line has already."""

    def complete(context: typer.Context, incomplete: str) -> Words:
        options = context.find_root().params
        try:
            with Client(options.get("url"), options.get("key"), timeout=SECONDS, attempts=1) as client:
                words = dict(fetch(client, context.params.get("kind")))
        except ApiError:
            return []
        return [(word, text) for word, text in words.items() if word.startswith(incomplete)]

    return complete


def _presets(client: Client, kind: str | None) -> Iterable[tuple[str, str]]:
    specs = [spec for spec in client.specs() if kind in (None, spec["kind"])]
    return ((preset, f"preset of {spec['kind']}") for spec in specs for preset in spec["presets"])


def _kinds_and_presets(client: Client, _: str | None) -> Iterable[tuple[str, str]]:
    yield from ((spec["kind"], spec["description"].partition(".")[0]) for spec in client.specs())
    yield from _presets(client, None)


def _name_or_id(row: Json) -> str:
    """The name, if a shell leaves it in one piece."""
    name = row["name"] or ""
    return row["id"] if not name or any(character.isspace() for character in name) else name


complete_kind = _completer(lambda client, _: ((kind, "") for kind in JOB_KINDS))
complete_state = _completer(lambda client, _: ((state, "") for state in RUN_STATES))
complete_spec = _completer(_kinds_and_presets)
complete_preset = _completer(_presets)
complete_study_preset = _completer(lambda client, _: _presets(client, "study"))
complete_encoder = _completer(lambda client, _: ((row["name"], row["id"]) for row in client.encoders()))
complete_collection = _completer(
    lambda client, _: ((row["name"], f"{row['images']} images") for row in client.collections())
)
complete_dataset = _completer(lambda client, _: ((row["name"], "") for row in client.datasets()))
complete_run = _completer(
    lambda client, _: ((_name_or_id(run), f"{run['kind']}, {run['state']}") for run in client.runs(limit=RUNS)["items"])
)
complete_study = _completer(
    lambda client, _: ((_name_or_id(study), study["state"]) for study in client.studies(limit=RUNS)["items"])
)
