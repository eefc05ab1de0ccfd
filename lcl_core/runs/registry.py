"""Encoders and collections by name, and what a spec's names stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from lcl_core.errors import UserError
from lcl_core.runs.datasets import confined, get_dataset
from lcl_core.runs.tables import Collection, Encoder
from lcl_core.specs import AnySpec, datasets_of, encoders_of, path_of


@dataclass(frozen=True)
class Inputs:
    """What a spec's names stand for: absolute paths, contents, and the id of the encoder it starts from."""

    datasets: dict[str, str]
    encoders: dict[str, str]
    encoder_id: str | None
    dataset_hashes: dict[str, str | None]  # as registered; None where the contents were never read


def located(home: Path, stored: str) -> Path:
    """A stored path made absolute; relative ones lie in ``home``, which may move."""
    return Path(home).resolve() / stored


def resolve_inputs(session: Session, spec: AnySpec, home: Path, roots: Sequence[Path] = ()) -> Inputs:
    """Find everything that a spec names. ``roots``: the folders that a path in it may lie in.

    Raises: UserError ``unknown_dataset``, ``unknown_encoder``, ``missing_files`` or ``path_forbidden``.
    """
    path = path_of(spec)
    if path is not None:
        confined(path, roots)
    datasets = {name: get_dataset(session, name) for name in datasets_of(spec)}
    encoders = {name: get_encoder(session, name) for name in encoders_of(spec)}
    return Inputs(
        datasets={name: _present(home, dataset.path) for name, dataset in datasets.items()},
        encoders={name: _present(home, encoder.path) for name, encoder in encoders.items()},
        encoder_id=next((encoder.id for encoder in encoders.values()), None),
        dataset_hashes={name: dataset.content_hash for name, dataset in datasets.items()},
    )


def _present(home: Path, stored: str) -> str:
    path = located(home, stored)
    if not path.exists():
        raise UserError("these files are gone; register them again", code="missing_files", file=path)
    return str(path)


def get_encoder(session: Session, id_or_name: str) -> Encoder:
    """The encoder of that id, else the newest of that name. Raises: UserError ``unknown_encoder``."""
    query = select(Encoder).where(or_(Encoder.id == id_or_name, Encoder.name == id_or_name))
    query = query.order_by((Encoder.id == id_or_name).desc(), Encoder.id.desc()).limit(1)
    found = session.scalars(query).one_or_none()
    if found is None:
        raise UserError(
            f"encoder {id_or_name!r} is not registered; the list of encoders has the names, or pre-train one",
            code="unknown_encoder",
        )
    return found


def list_encoders(session: Session) -> Sequence[Encoder]:
    """Newest first."""
    return session.scalars(select(Encoder).order_by(Encoder.id.desc())).all()


def get_collection(session: Session, id_or_name: str) -> Collection:
    """Raises: UserError ``unknown_collection``."""
    query = select(Collection).where(or_(Collection.id == id_or_name, Collection.name == id_or_name))
    found = session.scalars(query.order_by((Collection.id == id_or_name).desc()).limit(1)).one_or_none()
    if found is None:
        raise UserError(
            f"collection {id_or_name!r} does not exist; the list of collections has the names, or index one",
            code="unknown_collection",
        )
    return found


def list_collections(session: Session) -> Sequence[Collection]:
    """Newest first."""
    return session.scalars(select(Collection).order_by(Collection.id.desc())).all()
