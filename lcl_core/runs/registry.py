"""Datasets, encoders and collections by name, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from lcl_core.errors import UserError
from lcl_core.runs.database import now
from lcl_core.runs.tables import Collection, Dataset, Encoder
from lcl_core.specs import AnySpec, datasets_of, encoders_of

SAMPLE = "sample"


@dataclass(frozen=True)
class Inputs:
    """What a spec's names stand for: absolute paths, and the id of the encoder it starts from."""

    datasets: dict[str, str]
    encoders: dict[str, str]
    encoder_id: str | None


def located(home: Path, stored: str) -> Path:
    """A stored path made absolute; relative ones lie in ``home``, which may move."""
    return Path(home).resolve() / stored


def resolve_inputs(session: Session, spec: AnySpec, home: Path) -> Inputs:
    """Find everything that a spec names.

    Raises: UserError ``unknown_dataset``, ``unknown_encoder`` or ``missing_files``.
    """
    datasets = {name: get_dataset(session, name) for name in datasets_of(spec)}
    encoders = {name: get_encoder(session, name) for name in encoders_of(spec)}
    return Inputs(
        datasets={name: _present(home, dataset.path) for name, dataset in datasets.items()},
        encoders={name: _present(home, encoder.path) for name, encoder in encoders.items()},
        encoder_id=next((encoder.id for encoder in encoders.values()), None),
    )


def _present(home: Path, stored: str) -> str:
    path = located(home, stored)
    if not path.exists():
        raise UserError("these files are gone; register them again", code="missing_files", file=path)
    return str(path)


def get_dataset(session: Session, name: str) -> Dataset:
    """Raises: UserError ``unknown_dataset``."""
    dataset = session.get(Dataset, name)
    if dataset is None:
        known = ", ".join(session.scalars(select(Dataset.name).order_by(Dataset.name).limit(20))) or "none"
        raise UserError(
            f"dataset {name!r} is not registered; register it, or choose from: {known}",
            code="unknown_dataset",
        )
    return dataset


def list_datasets(session: Session) -> Sequence[Dataset]:
    return session.scalars(select(Dataset).order_by(Dataset.name)).all()


def register_dataset(session: Session, name: str, path: str | Path, roots: Sequence[Path], owner: str) -> Dataset:
    """Register the corpus at ``path`` (a folder or a .zip) under a new name.

    ``roots`` are the folders inside which a corpus may lie, symbolic links resolved.

    Raises: UserError ``dataset_exists``, ``path_forbidden`` or ``missing_files``.
    """
    real = Path(path).expanduser().resolve()
    allowed = [Path(root).expanduser().resolve() for root in roots]
    if not any(real.is_relative_to(root) for root in allowed):
        places = ", ".join(map(str, allowed))
        raise UserError(
            f"{path} is outside the folders that datasets may lie in ({places}); "
            "put it there or add its folder to LCL_DATA_ROOTS",
            code="path_forbidden",
            field="path",
        )
    if not real.exists():
        raise UserError("there is no such file or folder", code="missing_files", field="path", file=path)
    if session.get(Dataset, name) is not None:
        message = f"dataset {name!r} exists already; choose another name"
        raise UserError(message, code="dataset_exists", field="name")
    dataset = Dataset(name=name, path=str(real), owner=owner, created_at=now(session))
    session.add(dataset)
    session.flush()
    return dataset


def ensure_sample(session: Session) -> Dataset:
    """Register the corpus that comes with the product, or note where it lies after a new installation."""
    # by path: importing lcl_core.data would load what only trainers need
    path = str(Path(str(resources.files("lcl_core") / "data" / "sample" / "tiny.zip")).resolve())
    dataset = session.get(Dataset, SAMPLE)
    if dataset is None:
        dataset = Dataset(name=SAMPLE, path=path, owner="lcl", created_at=now(session))
        session.add(dataset)
    elif dataset.path != path:
        dataset.path = path
    session.flush()
    return dataset


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
