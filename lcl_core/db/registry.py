"""Registered encoders and collections: lookup, encoder identity, ownership of names, and resolution of a spec's inputs.

An encoder's identity is one hash over all of its files; an encoder of equal identity may replace the one that a
collection was made with. A name belongs to the owner of the first row that has it; bundled names belong to the product.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sqlalchemy import BindParameter, bindparam, or_, select
from sqlalchemy.orm import Session

from lcl_core.common.errors import Conflict, UserError
from lcl_core.common.paths import Root, is_url, resolve_allowed
from lcl_core.db.artifacts import absolute_path, bundled_path
from lcl_core.db.datasets import (
    PRODUCT_OWNER,
    SAMPLE_DATASET,
    get_dataset,
    select_items,
)
from lcl_core.db.models import CollectionRow, Dataset, EncoderRow
from lcl_core.db.session import unknown_name
from lcl_core.encoders.files import Hashes, identity_hash
from lcl_core.pretrained import pretrained_encoders
from lcl_core.specs.base import slug
from lcl_core.specs.corpus_jobs import ConvertSpec, IndexSpec, MatchSpec
from lcl_core.specs.parsing import (
    AnyModel,
    AnySpec,
)
from lcl_core.specs.pretrain import PretrainSpec

SAMPLE_COLLECTION = "sample-drawings"
MAX_NAME_LENGTH = 100
_NAMED_TABLES: dict[str, type[EncoderRow | Dataset | CollectionRow]] = {
    "encoder": EncoderRow,
    "dataset": Dataset,
    "collection": CollectionRow,
}
# a reference is an id or a name; datasets have names alone
_ID_PREFIXES = {"encoder": "enc_", "collection": "col_"}
_NO_FETCHED: Mapping[str, Path] = {}
# made once: every search asks for its collection, and a statement takes longer to make than to answer
_REFERENCE: BindParameter[str] = bindparam("reference")
_COLLECTION = (
    select(CollectionRow)
    .where(or_(CollectionRow.id == _REFERENCE, CollectionRow.name == _REFERENCE))
    .order_by((CollectionRow.id == _REFERENCE).desc())
    .limit(1)
)


def get_encoder(session: Session, id_or_name: str) -> EncoderRow:
    """The encoder with that id, else the newest with that name, else the newest that a run of that name made."""
    names = EncoderRow.name.in_({id_or_name, slug(id_or_name)})
    preference = (EncoderRow.id == id_or_name).desc(), (EncoderRow.name == id_or_name).desc(), EncoderRow.id.desc()
    query = select(EncoderRow).where(or_(EncoderRow.id == id_or_name, names)).order_by(*preference).limit(1)
    row = session.scalars(query).one_or_none()
    if row is None:
        raise unknown_name(session, EncoderRow, id_or_name)
    return row


def find_encoders(session: Session, spec: AnySpec) -> dict[str, EncoderRow]:
    """Encoders that a spec uses, by id or name as in the spec, its subject first."""
    rows = {}
    for field, name in spec.references().encoders.items():
        try:
            rows[name] = get_encoder(session, name)
        except UserError as error:
            raise UserError(f"{field}: {error.message}", code=error.code, field=field) from error
    return rows


def pin_encoders(session: Session, spec: AnySpec) -> AnySpec:
    """A pre-training spec with the ids of its encoders instead of names, which newer encoders may get."""
    if isinstance(spec, PretrainSpec):
        rows = find_encoders(session, spec)
        for field, reference in spec.references().encoders.items():
            spec = _set_field(spec, field.split("."), rows[reference].id)
    return spec


def pin_reference(session: Session, reference: str) -> str:
    """Id of the encoder that an id or name refers to; an unknown reference is returned as it is."""
    try:
        return get_encoder(session, reference).id
    except UserError:
        return reference


def _set_field(spec: AnyModel, path: Sequence[str], value: str) -> AnyModel:
    head, *rest = path
    return spec.model_copy(update={head: _set_field(getattr(spec, head), rest, value) if rest else value})


def list_encoders(session: Session) -> Sequence[EncoderRow]:
    """Newest first."""
    return session.scalars(select(EncoderRow).order_by(EncoderRow.id.desc())).all()


def get_collection(session: Session, id_or_name: str) -> CollectionRow:
    row = session.scalars(_COLLECTION, {"reference": id_or_name}).one_or_none()
    if row is None:
        raise unknown_name(session, CollectionRow, id_or_name)
    return row


def list_collections(session: Session) -> Sequence[CollectionRow]:
    """Newest first."""
    return session.scalars(select(CollectionRow).order_by(CollectionRow.id.desc())).all()


def set_encoder_files(row: EncoderRow, files: Hashes) -> None:
    """Set the file hashes {name: sha256} of the row, and its identity."""
    row.info = {**(row.info or {}), "files": dict(files)}
    row.identity = identity_hash(files)


def registered_files(row: EncoderRow) -> dict[str, str]:
    """{name: sha256} of the encoder's files."""
    return dict(row.info.get("files", {}))


def collection_encoder(session: Session, collection: CollectionRow) -> EncoderRow | None:
    """The encoder that the collection was made with, if it is still registered."""
    return None if collection.encoder_id is None else session.get(EncoderRow, collection.encoder_id)


def identical_encoders(session: Session, collection: CollectionRow) -> Sequence[EncoderRow]:
    """Other encoders with the same files as the collection's, oldest first."""
    query = select(EncoderRow).where(EncoderRow.identity == collection.encoder_identity).order_by(EncoderRow.id)
    return [row for row in session.scalars(query) if row.id != collection.encoder_id]


def check_collection_encoder(session: Session, collection: CollectionRow, encoder: EncoderRow) -> None:
    if collection.encoder_identity == encoder.identity:
        return
    own = collection_encoder(session, collection)
    made_with = collection.encoder_hash[:12] if own is None else f"{own.name!r} ({own.id})"
    has = "other files beside the same weights" if collection.encoder_hash == encoder.hash else "other weights"
    message = f"collection {collection.name!r} was made with encoder {made_with}, {encoder.name!r} has {has}; name "
    message += "that one, or make the collection anew with mode replace"
    raise Conflict(message, code="encoder_mismatch", field="encoder")


def check_name(session: Session, noun: str, name: str, owner: str, field: str = "name", *, admin: bool = False) -> None:
    """Check that ``owner`` may register a ``noun`` under ``name``. ``admin``: it may use names of others."""
    prefix = _ID_PREFIXES.get(noun)
    if prefix is not None and name.startswith(prefix):
        message = f"{name!r} has the form of an id; choose a name that does not begin with {prefix}"
        raise UserError(message, field=field)
    taken_by = None if admin else name_owner(session, noun, name)
    if taken_by not in (None, owner):
        who = "comes with the product" if taken_by == PRODUCT_OWNER else f"is {taken_by}'s"
        message = f"the {noun} name {name!r} {who}; choose another name, or ask an admin to register it under this one"
        raise Conflict(message, field=field)


def check_run_names(session: Session, kind: str, spec: AnySpec, name: str | None, owner: str) -> None:
    """``check_name`` for the output of a run; a collection is replaced only where the spec says so."""
    if kind == "pretrain" and name is not None:
        check_name(session, "encoder", slug(name), owner)
    elif isinstance(spec, ConvertSpec | MatchSpec):
        check_name(session, "dataset", spec.name, owner)
    elif isinstance(spec, IndexSpec) and spec.mode == "replace":
        check_name(session, "collection", spec.collection, owner, "collection")
        row = session.scalars(select(CollectionRow).where(CollectionRow.name == spec.collection)).one_or_none()
        if row is not None and "mode" not in spec.model_fields_set:
            message = f"there is a collection {row.name!r} already; choose another name, or set mode to add, "
            raise Conflict(message + "which keeps its items, or to replace, which deletes them", field="collection")


def available_name(session: Session, noun: str, name: str, owner: str, run_id: str) -> str:
    """``name``, or ``name-run_id`` if another owner has registered the name."""
    try:
        check_name(session, noun, name, owner)
    except UserError:
        return f"{name[: MAX_NAME_LENGTH - len(run_id) - 1]}-{run_id}"
    return name


def name_owner(session: Session, noun: str, name: str) -> str | None:
    """Owner of the first row with that name; None: there is none."""
    if name in _bundled_names()[noun]:
        return PRODUCT_OWNER
    table = _NAMED_TABLES[noun]
    query = select(table.owner).where(table.name == name).order_by(table.created_at).limit(1)
    return session.scalars(query).one_or_none()


def rename_encoder(session: Session, row: EncoderRow, name: str, owner: str, *, admin: bool) -> None:
    """Give an encoder another name, which no other encoder may have: a name refers to the newest that has it."""
    if row.owner == PRODUCT_OWNER:
        raise Conflict(f"encoder {row.name!r} comes with the product and keeps its name")
    check_name(session, "encoder", name, owner, admin=admin)
    if session.scalars(select(EncoderRow.id).where(EncoderRow.name == name, EncoderRow.id != row.id).limit(1)).first():
        raise Conflict(f"another encoder is named {name!r}; choose another name", field="name")
    row.name = name


@cache
def _bundled_names() -> dict[str, frozenset[str]]:
    return {
        "encoder": frozenset(encoder.name for encoder in pretrained_encoders()),
        "dataset": frozenset({SAMPLE_DATASET}),
        "collection": frozenset({SAMPLE_COLLECTION}),
    }


@dataclass(frozen=True)
class ResolvedInputs:
    """What the names in a spec refer to: absolute paths or URLs, content hashes, and the id of the encoder of an
    evaluation, index or match run."""

    datasets: dict[str, str]
    encoders: dict[str, str]
    encoder_id: str | None
    dataset_hashes: dict[str, str | None]  # as registered; None: never read
    encoder_hashes: dict[str, str]  # {id: sha256 of the weights}
    encoder_files: dict[str, dict[str, str]]  # {encoder: {file: sha256}}, as registered
    items: dict[str, list[str] | None] | None  # of ``datasets.select_items``


def dataset_location(
    home: Path, dataset: Dataset, roots: Sequence[Root], fetched: Mapping[str, Path] = _NO_FETCHED
) -> Root:
    """Absolute path or URL of a registered dataset, within ``roots``: a folder may have become a link meanwhile.

    ``fetched``: {stored path: local path} of folders that another home has.
    """
    if dataset.name == SAMPLE_DATASET and (bundled := bundled_path(dataset.path)) is not None:
        return bundled
    if not os.path.isabs(dataset.path) and not is_url(dataset.path):
        return fetched.get(dataset.path) or absolute_path(home, dataset.path)
    return resolve_allowed(dataset.path, roots, "dataset")


def managed_paths(session: Session, spec: AnySpec) -> list[str]:
    """Stored paths of the folders that a spec reads and the service made."""
    stored = [get_dataset(session, name).path for name in spec.references().datasets.values()]
    stored += [encoder.path for encoder in find_encoders(session, spec).values()]
    stored += [get_collection(session, name).path for name in spec.references().collections.values()]
    return [path for path in dict.fromkeys(stored) if not os.path.isabs(path) and not is_url(path)]


def resolve_inputs(
    session: Session, spec: AnySpec, home: Path, roots: Sequence[Root] = (), fetched: Mapping[str, Path] = _NO_FETCHED
) -> ResolvedInputs:
    """Resolve all names in a spec, and its paths within ``roots``. ``fetched``: as in ``dataset_location``."""
    read = spec.references()
    for field, path in read.paths.items():
        resolve_allowed(path, roots, field)
    datasets = {name: get_dataset(session, name) for name in read.datasets.values()}
    encoders = find_encoders(session, spec)
    for name in read.collections.values():
        check_collection_encoder(session, get_collection(session, name), encoders[read.encoders["encoder"]])
    return ResolvedInputs(
        datasets={
            name: _check_present(dataset_location(home, dataset, roots, fetched)) for name, dataset in datasets.items()
        },
        encoders={
            name: _check_present(fetched.get(encoder.path) or absolute_path(home, encoder.path))
            for name, encoder in encoders.items()
        },
        encoder_id=None if isinstance(spec, PretrainSpec) else next((row.id for row in encoders.values()), None),
        dataset_hashes={name: dataset.content_hash for name, dataset in datasets.items()},
        encoder_hashes={encoder.id: encoder.hash for encoder in encoders.values()},
        encoder_files={name: registered_files(encoder) for name, encoder in encoders.items()},
        items=select_items(session, spec),
    )


def _check_present(location: Root) -> str:
    if isinstance(location, Path) and not location.exists():
        raise UserError("these files are gone; register them again", code="file_missing", file=location)
    return str(location)
