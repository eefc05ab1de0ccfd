"""What a submission must pass before it becomes a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy.orm import Session

from api.errors import Problem
from lcl_core.errors import UserError
from lcl_core.roots import Root, confined
from lcl_core.runs import store
from lcl_core.specs import AnySpec, IndexSpec, collections_of, dataset_fields, encoders_of, parse_spec, places_of


def admit(session: Session, kind: str, value: dict[str, Any], roots: Sequence[Root]) -> AnySpec:
    """The parsed spec, everything that it reads being registered.

    ``roots``: what a path in it may lie in, or a URL below.

    Raises: Problem 422 with the dotted field of the spec; UserError ``pgvector_unavailable``, ``encoder_mismatch``.
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
    _check_encoder(session, spec)
    if isinstance(spec, IndexSpec) and spec.index == "pgvector":
        store.require_pgvector(session)
    return spec


def _check_encoder(session: Session, spec: AnySpec) -> None:
    """Raises: UserError ``encoder_mismatch`` when a collection is to be added to with another encoder than its own."""
    for name in collections_of(spec):
        encoder = store.get_encoder(session, encoders_of(spec)[0])
        store.check_encoder_of(session, store.get_collection(session, name), encoder)


def _inputs(spec: AnySpec, roots: Sequence[Root]) -> Iterator[tuple[str, Any, str]]:
    """(field, how to find it, name) of everything that the spec reads."""
    for field, name in dataset_fields(spec).items():
        yield field, store.get_dataset, name
    for name in encoders_of(spec):
        yield "encoder", store.get_encoder, name
    for name in collections_of(spec):
        yield "collection", store.get_collection, name
    for field, path in places_of(spec).items():
        yield field, lambda _, path: confined(path, roots), path
