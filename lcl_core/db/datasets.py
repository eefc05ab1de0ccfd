"""Datasets by name: registration, lookup, versions, and the bundled sample corpus."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from lcl_core.common.errors import UserError
from lcl_core.common.paths import Root, resolve_allowed
from lcl_core.db.models import Dataset, DatasetVersion
from lcl_core.db.session import now, similar_name

PRODUCT_OWNER = "lcl"  # owner of bundled encoders and datasets
SAMPLE_DATASET = "sample"
SAMPLE_FILE = "lcl_core/data/sample/tiny.zip"


def get_dataset(session: Session, name: str) -> Dataset:
    """Raises: UserError ``unknown_dataset``."""
    dataset = session.get(Dataset, name)
    if dataset is None:
        known = ", ".join(session.scalars(select(Dataset.name).order_by(Dataset.name).limit(20))) or "none"
        similar = similar_name(session, Dataset.name, name) or f"; register it, or choose from: {known}"
        raise UserError(f"dataset {name!r} is not registered{similar}", code="unknown_dataset")
    return dataset


def list_datasets(session: Session) -> Sequence[Dataset]:
    return session.scalars(select(Dataset).order_by(Dataset.name)).all()


def list_versions(session: Session, name: str) -> Sequence[DatasetVersion]:
    """Newest first. Raises: UserError ``unknown_dataset``."""
    get_dataset(session, name)
    query = select(DatasetVersion).where(DatasetVersion.name == name)
    return session.scalars(query.order_by(DatasetVersion.version.desc())).all()


def register_dataset(
    session: Session, name: str, path: str | Path, roots: Sequence[Root], owner: str, *, new_version: bool = False
) -> Dataset:
    """Register the corpus at ``path`` (a folder, a .zip, or a URL of shards) under a new name.

    Args:
        roots: folders and URLs that may contain a corpus; symbolic links are resolved.
        new_version: an existing name refers to this corpus from now on.

    Raises: UserError ``dataset_exists``, ``path_forbidden`` or ``missing_files``.
    """
    real = resolve_allowed(path, roots)
    if session.get(Dataset, name) is not None and not new_version:
        message = f"dataset {name!r} exists already; choose another name, or ask for a new version of it"
        raise UserError(message, code="dataset_exists", field="name")
    return upsert_dataset(session, name, str(real), owner)


def upsert_dataset(session: Session, name: str, path: str, owner: str) -> Dataset:
    """Insert the dataset, or move it to ``path`` with unknown contents."""
    dataset = session.get(Dataset, name)
    if dataset is None:
        dataset = Dataset(name=name, path=path, owner=owner, created_at=now(session))
        session.add(dataset)
    else:
        dataset.path, dataset.content_hash, dataset.statistics = path, None, None
    session.flush()
    return dataset


def record_version(
    session: Session,
    dataset: Dataset,
    content_hash: str,
    statistics: dict[str, Any] | None,
    *,
    owner: str | None = None,
    run_id: str | None = None,
) -> None:
    """Record the contents of a dataset; contents that differ from the newest version become a new version."""
    dataset.content_hash, dataset.statistics = content_hash, statistics
    versions = list_versions(session, dataset.name)
    if versions and versions[0].content_hash == content_hash:
        versions[0].path, versions[0].statistics = dataset.path, statistics
        return
    session.add(
        DatasetVersion(
            name=dataset.name,
            version=versions[0].version + 1 if versions else 1,
            path=dataset.path,
            content_hash=content_hash,
            statistics=statistics,
            owner=owner or dataset.owner,
            run_id=run_id,
            created_at=now(session),
        )
    )
    session.flush()


def sample_path() -> str:
    """Absolute path of the bundled corpus, without importing lcl_core.data."""
    return str(Path(str(resources.files("lcl_core"))).parent.joinpath(SAMPLE_FILE).resolve())


def register_sample(session: Session) -> Dataset:
    """Register the bundled corpus, or update its path after a new installation."""
    path = sample_path()
    dataset = session.get(Dataset, SAMPLE_DATASET)
    if dataset is None:
        dataset = Dataset(name=SAMPLE_DATASET, path=path, owner=PRODUCT_OWNER, created_at=now(session))
        session.add(dataset)
    elif dataset.path != path:
        dataset.path = path
    session.flush()
    return dataset
