"""What a submission must pass before it becomes a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from api.errors import Problem
from lcl_core.errors import UserError
from lcl_core.runs import store
from lcl_core.specs import AnySpec, PretrainSpec, datasets_of, encoders_of, parse_spec, path_of


def admit(session: Session, kind: str, value: dict[str, Any], roots: Sequence[Path]) -> AnySpec:
    """The parsed spec, every dataset and encoder that it names being registered.

    ``roots``: the folders that a path in it may lie in.

    Raises: Problem 422 with the dotted field of the spec.
    """
    try:
        spec = parse_spec(kind, value)
    except UserError as error:
        raise Problem(422, error.code, error.message, field=error.field) from error
    for field, look_up, name in _inputs(spec, roots):
        try:
            look_up(session, name)
        except UserError as error:
            raise Problem(422, error.code, error.message, field=field) from error
    return spec


def _inputs(spec: AnySpec, roots: Sequence[Path]) -> Iterator[tuple[str, Any, str]]:
    """(field, how to find it, name) of everything that the spec reads."""
    if isinstance(spec, PretrainSpec):
        for place, source in enumerate(spec.data.sources):
            yield f"data.sources.{place}.dataset", store.get_dataset, source.dataset
        return
    for name in datasets_of(spec):
        yield "dataset", store.get_dataset, name
    for name in encoders_of(spec):
        yield "encoder", store.get_encoder, name
    path = path_of(spec)
    if path is not None:
        yield "path", lambda _, place: store.confined(place, roots), path
