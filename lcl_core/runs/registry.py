"""Encoders and collections by name, and what a spec's names stand for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import bindparam, or_, select
from sqlalchemy.orm import Session

from lcl_core.errors import UserError
from lcl_core.roots import Root, confined, is_url
from lcl_core.runs.datasets import SAMPLE, SAMPLE_FILE, get_dataset, sample_path
from lcl_core.runs.identities import check_encoder_of, registered_files
from lcl_core.runs.tables import Collection, Dataset, Encoder
from lcl_core.specs import AnySpec, collections_of, datasets_of, encoders_of, places_of

_NONE: Mapping[str, Path] = {}
# Asked with every search, and dearer to build than to run.
_COLLECTION = (
    select(Collection)
    .where(or_(Collection.id == bindparam("wanted"), Collection.name == bindparam("wanted")))
    .order_by((Collection.id == bindparam("wanted")).desc())
    .limit(1)
)


@dataclass(frozen=True)
class Inputs:
    """What a spec's names stand for: absolute paths or URLs, contents, and the id of the encoder it starts from."""

    datasets: dict[str, str]
    encoders: dict[str, str]
    encoder_id: str | None
    dataset_hashes: dict[str, str | None]  # as registered; None where the contents were never read
    encoder_files: dict[str, dict[str, str]]  # sha256 by file, as registered


def located(home: Path, stored: str) -> Path:
    """A stored path made absolute; relative ones lie in ``home``, which may move."""
    return Path(home).resolve() / stored


def dataset_place(home: Path, dataset: Dataset, roots: Sequence[Root], fetched: Mapping[str, Path] = _NONE) -> Root:
    """Where a registered dataset lies. What runs made is the service's own; so is the sample, of this installation.

    Args:
        fetched: folders by their stored path that another home holds, and where they are here.

    Raises: UserError ``path_forbidden`` for what does not, or no longer, lie in one of ``roots``, links followed anew:
        a folder may have become a link since. ``missing_files`` for what is gone.
    """
    if dataset.name == SAMPLE and dataset.path.endswith(SAMPLE_FILE):
        return Path(sample_path())
    if not os.path.isabs(dataset.path) and not is_url(dataset.path):
        return fetched.get(dataset.path) or located(home, dataset.path)
    return confined(dataset.path, roots, "dataset")


def service_paths(session: Session, spec: AnySpec) -> list[str]:
    """Stored paths of what a spec reads and the service keeps itself.

    Raises: UserError ``unknown_dataset``, ``unknown_encoder`` or ``unknown_collection``.
    """
    stored = [get_dataset(session, name).path for name in datasets_of(spec)]
    stored += [get_encoder(session, name).path for name in encoders_of(spec)]
    stored += [get_collection(session, name).path for name in collections_of(spec)]
    return [path for path in dict.fromkeys(stored) if not os.path.isabs(path) and not is_url(path)]


def resolve_inputs(
    session: Session, spec: AnySpec, home: Path, roots: Sequence[Root] = (), fetched: Mapping[str, Path] = _NONE
) -> Inputs:
    """Find everything that a spec names.

    Args:
        roots: what a path in it may lie in, or a URL below.
        fetched: folders by their stored path that another home holds, and where they are here.

    Raises: UserError ``unknown_dataset``, ``unknown_encoder``, ``missing_files`` or ``path_forbidden``;
        ``encoder_mismatch`` for an encoder with which nothing can be added to the collection.
    """
    for field, place in places_of(spec).items():
        confined(place, roots, field)
    datasets = {name: get_dataset(session, name) for name in datasets_of(spec)}
    encoders = {name: get_encoder(session, name) for name in encoders_of(spec)}
    for name in collections_of(spec):
        check_encoder_of(session, get_collection(session, name), encoders[encoders_of(spec)[0]])
    return Inputs(
        datasets={name: _present(dataset_place(home, dataset, roots, fetched)) for name, dataset in datasets.items()},
        encoders={
            name: _present(fetched.get(encoder.path) or located(home, encoder.path))
            for name, encoder in encoders.items()
        },
        encoder_id=next((encoder.id for encoder in encoders.values()), None),
        dataset_hashes={name: dataset.content_hash for name, dataset in datasets.items()},
        encoder_files={name: registered_files(encoder) for name, encoder in encoders.items()},
    )


def _present(place: Root) -> str:
    """Whether there is anything at a URL, the run itself finds out."""
    if isinstance(place, Path) and not place.exists():
        raise UserError("these files are gone; register them again", code="missing_files", file=place)
    return str(place)


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


def encoders_with(session: Session, weights_hash: str) -> Sequence[Encoder]:
    """All encoders with these weights, oldest first. Their other files may differ."""
    return session.scalars(select(Encoder).where(Encoder.hash == weights_hash).order_by(Encoder.id)).all()


def list_encoders(session: Session) -> Sequence[Encoder]:
    """Newest first."""
    return session.scalars(select(Encoder).order_by(Encoder.id.desc())).all()


def get_collection(session: Session, id_or_name: str) -> Collection:
    """Raises: UserError ``unknown_collection``."""
    found = session.scalars(_COLLECTION, {"wanted": id_or_name}).one_or_none()
    if found is None:
        raise unknown_collection(id_or_name)
    return found


def unknown_collection(id_or_name: str) -> UserError:
    message = f"collection {id_or_name!r} does not exist; the list of collections has the names, or index one"
    return UserError(message, code="unknown_collection")


def list_collections(session: Session) -> Sequence[Collection]:
    """Newest first."""
    return session.scalars(select(Collection).order_by(Collection.id.desc())).all()
