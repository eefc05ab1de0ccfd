"""What a submission must pass before it becomes a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy.orm import Session

from api.errors import Problem
from lcl_core.errors import UserError
from lcl_core.runs import store
from lcl_core.specs import AnySpec, PretrainSpec, parse_spec


def admit(session: Session, kind: str, value: dict[str, Any]) -> AnySpec:
    """The parsed spec, every dataset and encoder that it names being registered.

    Raises: Problem 422 with the dotted field of the spec.
    """
    try:
        spec = parse_spec(kind, value)
    except UserError as error:
        raise Problem(422, error.code, error.message, field=error.field) from error
    for field, look_up, name in _inputs(spec):
        try:
            look_up(session, name)
        except UserError as error:
            raise Problem(422, error.code, error.message, field=field) from error
    return spec


def _inputs(spec: AnySpec) -> Iterator[tuple[str, Any, str]]:
    """(field, how to find it, name) of everything that the spec reads."""
    if isinstance(spec, PretrainSpec):
        for place, source in enumerate(spec.data.sources):
            yield f"data.sources.{place}.dataset", store.get_dataset, source.dataset
    else:
        yield "dataset", store.get_dataset, spec.dataset
        yield "encoder", store.get_encoder, spec.encoder
