"""Words that a shell offers when Tab is pressed: kinds and states of runs, presets, and names of what the service has.

The service is asked with a short deadline. Nothing is offered, and nothing printed, where it does not answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import typer

from api.client import ApiError, Client
from api.client.payloads import RUN_STATES, Json
from lcl_core.jobs import JOB_KINDS

SECONDS = 2.0
RUNS = 100  # newest runs and studies that are offered
Words = list[tuple[str, str]]  # each with what the shell shows beside it


def complete_kind(incomplete: str) -> Words:
    return _matching(((kind, "") for kind in JOB_KINDS), incomplete)


def complete_spec(context: typer.Context, incomplete: str) -> Words:
    """Kinds of specs and presets."""
    specs = _fetch(context, lambda client: client.specs())
    kinds = [(spec["kind"], spec["description"].partition(".")[0]) for spec in specs]
    presets = [(preset, f"preset of {spec['kind']}") for spec in specs for preset in spec["presets"]]
    return _matching([*kinds, *presets], incomplete)


def complete_state(incomplete: str) -> Words:
    return _matching(((state, "") for state in RUN_STATES), incomplete)


def complete_preset(context: typer.Context, incomplete: str) -> Words:
    """Presets of the kind on the command line."""
    kind = context.params.get("kind")
    specs = _fetch(context, lambda client: client.specs())
    found = ((preset, spec["kind"]) for spec in specs if kind in (None, spec["kind"]) for preset in spec["presets"])
    return _matching(found, incomplete)


def complete_study_preset(context: typer.Context, incomplete: str) -> Words:
    specs = _fetch(context, lambda client: client.specs())
    found = ((preset, "") for spec in specs if spec["kind"] == "study" for preset in spec["presets"])
    return _matching(found, incomplete)


def complete_encoder(context: typer.Context, incomplete: str) -> Words:
    encoders = _fetch(context, lambda client: client.encoders())
    return _matching(((row["name"], row["id"]) for row in encoders), incomplete)


def complete_collection(context: typer.Context, incomplete: str) -> Words:
    collections = _fetch(context, lambda client: client.collections())
    return _matching(((row["name"], f"{row['images']} images") for row in collections), incomplete)


def complete_dataset(context: typer.Context, incomplete: str) -> Words:
    return _matching(((row["name"], "") for row in _fetch(context, lambda client: client.datasets())), incomplete)


def complete_run(context: typer.Context, incomplete: str) -> Words:
    """Names of runs and ids of those without one that a shell leaves in one piece."""
    runs = _fetch(context, lambda client: client.runs(limit=RUNS)["items"])
    return _matching(((_name_or_id(run), f"{run['kind']}, {run['state']}") for run in runs), incomplete)


def complete_study(context: typer.Context, incomplete: str) -> Words:
    studies = _fetch(context, lambda client: client.studies(limit=RUNS)["items"])
    return _matching(((_name_or_id(study), study["state"]) for study in studies), incomplete)


def _name_or_id(row: Json) -> str:
    name = row["name"] or ""
    return row["id"] if not name or any(character.isspace() for character in name) else name


def _matching(words: Iterable[tuple[str, str]], incomplete: str) -> Words:
    return [(word, text) for word, text in dict(words).items() if word.startswith(incomplete)]


def _fetch(context: typer.Context, request: Callable[[Client], list[Any]]) -> list[Any]:
    """The answer of the service; nothing where it refuses or does not answer."""
    options = context.find_root().params
    try:
        with Client(options.get("url"), options.get("key"), timeout=SECONDS, attempts=1) as client:
            return request(client)
    except ApiError:
        return []
