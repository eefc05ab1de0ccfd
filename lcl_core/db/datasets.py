"""Datasets by name: registration, lookup, versions, tags of their documents, and the bundled sample corpus.

A tag is of a document or a captioned image, which is named by its location in the corpus: FILE:LINE, or the number of a
record of shards. Tags belong to contents with one hash: a new version of a dataset starts without tags, since its items
may be different ones.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from lcl_core.common.errors import Conflict, UserError, suggestion
from lcl_core.common.paths import Root, resolve_allowed
from lcl_core.db.artifacts import discard_folder
from lcl_core.db.models import Dataset, DatasetTag, DatasetVersion
from lcl_core.db.session import now, storable_json, unknown_name
from lcl_core.specs.corpus_jobs import ConvertSpec
from lcl_core.specs.data import VIEW_RECORDS
from lcl_core.specs.pretrain import PretrainSpec

PRODUCT_OWNER = "lcl"  # owner of bundled encoders and datasets
SAMPLE_DATASET = "sample"
SAMPLE_FILE = "lcl_core/data/sample/drawings.zip"
# ``Corpus.content_hash`` of the file, whose computation would delay every start; a test computes it
SAMPLE_HASH = "ac8c24e5c30f67c8f707f84a88736de1995b559929300d9db6335d5421b61b7a"
MAX_TAGS = 100_000  # of all items of a dataset's contents
_MAX_LISTED = 20  # tags that a message names


def get_dataset(session: Session, name: str) -> Dataset:
    dataset = session.get(Dataset, name)
    if dataset is None:
        raise unknown_name(session, Dataset, name)
    return dataset


def list_datasets(session: Session) -> Sequence[Dataset]:
    return session.scalars(select(Dataset).order_by(Dataset.name)).all()


def list_versions(session: Session, name: str) -> Sequence[DatasetVersion]:
    """Newest first."""
    get_dataset(session, name)
    query = select(DatasetVersion).where(DatasetVersion.name == name)
    return session.scalars(query.order_by(DatasetVersion.version.desc())).all()


def register_dataset(
    session: Session, name: str, path: str | Path, roots: Sequence[Root], owner: str, *, new_version: bool = False
) -> Dataset:
    """Register the corpus at ``path`` within ``roots`` (a folder, a .zip, or a URL of shards) under a new name.

    ``new_version``: an existing name refers to this corpus from now on.
    """
    real = resolve_allowed(path, roots)
    if session.get(Dataset, name) is not None and not new_version:
        message = f"dataset {name!r} exists already; choose another name, or ask for a new version of it"
        raise Conflict(message, field="name")
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
    """Record the contents of a dataset; contents that differ from the newest version become a new version.

    Equal contents move the newest version to the dataset's path: a conversion that is repeated replaces damaged files.
    The previous folder becomes garbage.
    """
    statistics = storable_json(statistics)  # splits, sources and labels are texts of the corpus
    dataset.content_hash, dataset.statistics = content_hash, statistics
    versions = list_versions(session, dataset.name)
    if versions and versions[0].content_hash == content_hash:
        previous, versions[0].path, versions[0].statistics = versions[0].path, dataset.path, statistics
        session.flush()
        if previous not in {dataset.path, *(version.path for version in versions)}:
            discard_folder(session, previous)
        return
    number = versions[0].version + 1 if versions else 1
    row = DatasetVersion(name=dataset.name, version=number, path=dataset.path, content_hash=content_hash)
    row.statistics, row.owner, row.run_id = statistics, owner or dataset.owner, run_id
    row.created_at = now(session)
    session.add(row)
    session.flush()


def sample_path() -> str:
    """Absolute path of the bundled corpus, without importing lcl_core.data."""
    return str(Path(str(resources.files("lcl_core"))).parent.joinpath(SAMPLE_FILE).resolve())


def register_sample(session: Session) -> Dataset:
    """Register the bundled corpus, or update its path after a new installation."""
    dataset = session.get(Dataset, SAMPLE_DATASET)
    if dataset is None:
        dataset = Dataset(name=SAMPLE_DATASET, owner=PRODUCT_OWNER, content_hash=SAMPLE_HASH, created_at=now(session))
        session.add(dataset)
    dataset.path = sample_path()
    session.flush()
    return dataset


def change_tags(
    session: Session, dataset: Dataset, items: Sequence[str], add: Collection[str], remove: Collection[str]
) -> int:
    """Add and remove tags of all these items. Returns: how many have other tags now."""
    session.scalars(select(Dataset.name).where(Dataset.name == dataset.name).with_for_update()).one()
    before = item_tags(session, dataset, items)
    after = {item: (set(tags) | set(add)) - set(remove) for item, tags in before.items()}
    new = [(tag, item) for item, tags in after.items() for tag in sorted(tags - set(before[item]))]
    if remove:
        session.execute(delete(DatasetTag).where(*_of(dataset), DatasetTag.tag.in_(remove), DatasetTag.item.in_(items)))
    if new:
        values = {"dataset": dataset.name, "content_hash": dataset.content_hash}
        rows = [{**values, "tag": tag, "item": item} for tag, item in new]
        session.execute(insert(DatasetTag), rows)
        number = session.scalars(select(func.count()).select_from(DatasetTag).where(*_of(dataset))).one()
        if number > MAX_TAGS:
            message = f"dataset {dataset.name!r} would have {number:,} tags; {MAX_TAGS:,} are allowed"
            raise UserError(message)
    return sum(after[item] != set(tags) for item, tags in before.items())


def item_tags(session: Session, dataset: Dataset, items: Sequence[str]) -> dict[str, list[str]]:
    """Tags of each of these items, sorted."""
    tags: dict[str, list[str]] = {item: [] for item in items}
    rows = select(DatasetTag.item, DatasetTag.tag).where(*_of(dataset), DatasetTag.item.in_(items))
    for item, tag in session.execute(rows.order_by(DatasetTag.tag)):
        tags[item].append(tag)
    return tags


def count_tags(session: Session, dataset: Dataset) -> dict[str, int]:
    """How many items have each tag, in the order of the tags."""
    rows = select(DatasetTag.tag, func.count()).where(*_of(dataset)).group_by(DatasetTag.tag)
    return {row[0]: row[1] for row in session.execute(rows.order_by(DatasetTag.tag))}


def tagged_items(session: Session, dataset: Dataset, tags: Collection[str]) -> list[str]:
    """Items that have any of the tags, sorted."""
    rows = select(DatasetTag.item).where(*_of(dataset), DatasetTag.tag.in_(tags)).distinct()
    return list(session.scalars(rows.order_by(DatasetTag.item)))


def check_tags(session: Session, spec: Any) -> Dataset | None:
    """The dataset whose tags a conversion names; None: it names no tags, or the spec is of another kind."""
    if not isinstance(spec, ConvertSpec) or spec.dataset is None or not (spec.only_tags or spec.without_tags):
        return None
    dataset = get_dataset(session, spec.dataset)
    known = count_tags(session, dataset)
    for field in ("only_tags", "without_tags"):
        for index, tag in enumerate(getattr(spec, field) or ()):
            if tag not in known:
                shown = ", ".join([*known][:_MAX_LISTED]) + (" …" if len(known) > _MAX_LISTED else "")
                way_out = suggestion(tag, known) or (f"; its tags are: {shown}" if known else "; it has no tags yet")
                message = f"no item of dataset {dataset.name!r} has the tag {tag!r}{way_out}"
                raise UserError(message, field=f"{field}.{index}")
    return dataset


def check_views(session: Session, spec: Any) -> None:
    """Check that each source of a pre-training has records of its view, as far as they are counted."""
    for number, source in enumerate(spec.data.sources if isinstance(spec, PretrainSpec) else ()):
        records = VIEW_RECORDS[source.view]
        if (get_dataset(session, source.dataset).statistics or {}).get(records) != 0:
            continue
        field, lacks = f"data.sources.{number}.view", "captioned images" if records == "pairs" else "documents"
        message = (
            f"{field}: dataset {source.dataset!r} has no {lacks}, which {source.view} reads; take another view, or "
            f"remove this source (after a change of the corpus: lcl data register {source.dataset} PATH --new-version)"
        )
        raise UserError(message, code="no_data", field=field)


def select_items(session: Session, spec: Any) -> dict[str, list[str] | None] | None:
    """Which items a conversion keeps, as ``run.json`` has it: ``only`` (None: all) and ``without``.

    None: the spec names no tags.
    """
    dataset = check_tags(session, spec)
    if dataset is None:
        return None
    only = tagged_items(session, dataset, spec.only_tags) if spec.only_tags else None
    return {"only": only, "without": tagged_items(session, dataset, spec.without_tags) if spec.without_tags else []}


def _of(dataset: Dataset) -> tuple[Any, Any]:
    """Rows of the dataset's present contents."""
    return DatasetTag.dataset == dataset.name, DatasetTag.content_hash == (dataset.content_hash or "")
