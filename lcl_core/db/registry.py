"""Registered encoders and collections: lookup, encoder identity, ownership of names, and resolution of a spec's inputs.

An encoder's identity is one hash over all of its files; an encoder of equal identity may replace the one that a
collection was made with. A name belongs to the owner of the first row that has it; bundled names belong to the product.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sqlalchemy import bindparam, func, or_, select, update
from sqlalchemy.orm import Session

from lcl_core.common.errors import UserError
from lcl_core.common.paths import Root, is_url, resolve_allowed
from lcl_core.db.datasets import PRODUCT_OWNER, SAMPLE_DATASET, SAMPLE_FILE, get_dataset, sample_path
from lcl_core.db.models import ApiKey, CollectionRow, Dataset, EncoderRow
from lcl_core.db.session import Database, now
from lcl_core.encoders.file_hashes import Hashes, changed_files, hash_files, identity_hash
from lcl_core.pretrained import pretrained_encoders
from lcl_core.specs.corpus_jobs import ConvertSpec, IndexSpec, MatchSpec
from lcl_core.specs.parsing import AnySpec, collections_of, data_paths, datasets_of, encoders_of

_WEIGHTS_FILE = "model.safetensors"  # of encoders that runs make
# Asked with every search, and dearer to build than to run.
_SELECT_ENCODER = select(EncoderRow).where(EncoderRow.id == bindparam("wanted"))


def set_encoder_files(row: EncoderRow, files: Hashes) -> None:
    """Set what the row says of the encoder's files: sha256 by name, and the identity over all."""
    row.info = {**(row.info or {}), "files": dict(files)}
    row.identity = identity_hash(files)


def registered_files(row: EncoderRow) -> dict[str, str]:
    """sha256 of the encoder's files by name; of a row of an older version, of the weights alone or of none."""
    known = row.info.get("files")
    if known:
        return dict(known)
    return {_WEIGHTS_FILE: row.hash} if row.run_id is not None else {}


def collection_encoder(session: Session, collection: CollectionRow) -> EncoderRow | None:
    """The very encoder that the collection was made with, if it is registered still."""
    if collection.encoder_id is None:
        return None
    return session.scalars(_SELECT_ENCODER, {"wanted": collection.encoder_id}).one_or_none()


def identical_encoders(session: Session, collection: CollectionRow) -> Sequence[EncoderRow]:
    """Other encoders that are equal to the collection's in all files, oldest first."""
    if collection.encoder_identity is None:
        return []
    query = select(EncoderRow).where(EncoderRow.identity == collection.encoder_identity).order_by(EncoderRow.id)
    return [row for row in session.scalars(query) if row.id != collection.encoder_id]


def check_collection_encoder(session: Session, collection: CollectionRow, encoder: EncoderRow) -> None:
    """Whether ``encoder`` makes the vectors that the collection holds. Raises: UserError ``encoder_mismatch``."""
    identity = collection.encoder_identity
    if encoder.id == collection.encoder_id or (identity is not None and identity == encoder.identity):
        return
    own = collection_encoder(session, collection)
    made_with = f"collection {collection.name!r} was made with encoder {collection.encoder_hash[:12]}"
    if own is not None:
        made_with = f"collection {collection.name!r} was made with encoder {own.name!r} ({own.id})"
    if collection.encoder_hash == encoder.hash:
        names = changed_files(registered_files(own), registered_files(encoder)) if own is not None else []
        what = f"{encoder.name!r} has the same weights and another {', '.join(names) or 'set of files'}"
    else:
        what = f"{encoder.name!r} is {encoder.hash[:12]}"
    message = f"{made_with}, {what}; name that one, or make the collection anew with mode replace"
    raise UserError(message, code="encoder_mismatch", field="encoder")


def has_missing_identities(database: Database) -> bool:
    """Whether ``complete_identities`` has something to look at."""
    with database.reading() as session:
        return session.scalars(select(EncoderRow.id).where(EncoderRow.identity.is_(None)).limit(1)).first() is not None


def fill_missing_identities(database: Database, home: Path) -> int:
    """Hash the files of encoders that an older version registered without, where they are on this disk.

    Files that have been changed since cannot be told from the original ones here, except by the weights' hash: a row
    whose weights are others stays as it is. Returns: how many rows were completed.
    """
    with database.reading() as session:
        missing = session.execute(
            select(EncoderRow.id, EncoderRow.path, EncoderRow.hash).where(EncoderRow.identity.is_(None))
        )
        found = [(row_id, Path(home).resolve() / path, digest) for row_id, path, digest in missing.tuples()]
    done = 0
    for row_id, directory, digest in found:
        try:
            files = hash_files(directory)
        except OSError:  # it stays for the next start
            continue
        if _WEIGHTS_FILE in files and files[_WEIGHTS_FILE] == digest:
            done += _fill_identity(database, row_id, files)
    return done


def _fill_identity(database: Database, row_id: str, files: Hashes) -> bool:
    with database.session() as session:
        row = session.get(EncoderRow, row_id, with_for_update=True)
        if row is None or row.identity is not None:  # deleted meanwhile, or another process was quicker
            return False
        set_encoder_files(row, files)
        nameless = CollectionRow.encoder_identity.is_(None)
        made_with_it = update(CollectionRow).where(CollectionRow.encoder_id == row_id, nameless)
        session.execute(made_with_it.values(encoder_identity=row.identity))
        return True


SAMPLE_COLLECTION = "sample-drawings"
MAX_NAME_LENGTH = 100
_NAME_LOCK = 0x6C636C  # any constant: the first half of the keys of PostgreSQL's advisory locks on names
_NAMED_TABLES: dict[str, type[EncoderRow | Dataset | CollectionRow]] = {
    "encoder": EncoderRow,
    "dataset": Dataset,
    "collection": CollectionRow,
}
# Asked with every submission, and dearer to build than to run.
_SELECT_OWNER = {
    noun: select(table.owner).where(table.name == bindparam("wanted")).order_by(table.created_at).limit(1)
    for noun, table in _NAMED_TABLES.items()
}
# How ids begin: a reference is an id or a name. Datasets have names alone.
_ID_PREFIXES = {"encoder": "enc_", "collection": "col_"}


def check_name(session: Session, noun: str, name: str, owner: str, field: str = "name", *, admin: bool = False) -> None:
    """Whether ``owner`` may register an encoder, dataset or collection (``noun``) under ``name``.

    Args:
        field: of the request, for the error.
        admin: may use the names of others.

    Raises: UserError ``bad_name`` for what has the form of an id, ``name_taken``.
    """
    prefix = _ID_PREFIXES.get(noun)
    if prefix is not None and name.startswith(prefix):
        message = f"{name!r} has the form of an id; choose {_with_article(noun)} name that does not begin with {prefix}"
        raise UserError(message, code="bad_name", field=field)
    taken_by = None if admin else name_owner(session, noun, name)
    if taken_by not in (None, owner):
        who = "comes with the product" if taken_by == PRODUCT_OWNER else f"is {taken_by}'s"
        message = f"the {noun} name {name!r} {who}; choose another name, or ask an admin to register it under this one"
        raise UserError(message, code="name_taken", field=field)


def check_run_names(
    session: Session, kind: str, spec: AnySpec, name: str | None, owner: str, *, admin: bool = False
) -> None:
    """The same for what a run is going to make. Raises: UserError as ``check_name``."""
    if kind == "pretrain" and name is not None:
        check_name(session, "encoder", name, owner, admin=admin)
    elif isinstance(spec, ConvertSpec | MatchSpec):
        check_name(session, "dataset", spec.name, owner, admin=admin)
    elif isinstance(spec, IndexSpec) and spec.mode == "replace":
        check_name(session, "collection", spec.collection, owner, "collection", admin=admin)


def available_name(session: Session, noun: str, name: str, owner: str, run_id: str) -> str:
    """``name``, or one of the run's own where another owner took it while the run was under way."""
    try:
        check_name(session, noun, name, owner, admin=_is_admin(session, owner))
    except UserError:
        return f"{name[: MAX_NAME_LENGTH - len(run_id) - 1]}-{run_id}"
    return name


def name_owner(session: Session, noun: str, name: str) -> str | None:
    """Who had the name first; None: nobody has it."""
    if name in _bundled_names()[noun]:
        return PRODUCT_OWNER
    if noun == "encoder":
        lock_name(session, name)  # datasets and collections are unique by name in the database itself
    return session.scalars(_SELECT_OWNER[noun], {"wanted": name}).one_or_none()


def lock_name(session: Session, name: str) -> None:
    """Until the transaction's end nobody else who asks for this name goes on. On SQLite one writes at a time anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(_NAME_LOCK, zlib.crc32(name.encode()) >> 1)))


def _is_admin(session: Session, owner: str) -> bool:
    """Whether one of the owner's keys is an admin's: a run does not know with which key it was submitted."""
    query = select(ApiKey.expires).where(ApiKey.owner == owner, ApiKey.role == "admin")
    moment = now(session)
    return any(expires is None or expires > moment for expires in session.scalars(query))


@cache
def _bundled_names() -> dict[str, frozenset[str]]:
    return {
        "encoder": frozenset(found.name for found in pretrained_encoders()),
        "dataset": frozenset({SAMPLE_DATASET}),
        "collection": frozenset({SAMPLE_COLLECTION}),
    }


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


_NO_FETCHED: Mapping[str, Path] = {}
# Asked with every search, and dearer to build than to run.
_SELECT_COLLECTION = (
    select(CollectionRow)
    .where(or_(CollectionRow.id == bindparam("wanted"), CollectionRow.name == bindparam("wanted")))
    .order_by((CollectionRow.id == bindparam("wanted")).desc())
    .limit(1)
)


@dataclass(frozen=True)
class ResolvedInputs:
    """What a spec's names stand for: absolute paths or URLs, contents, and the id of the encoder it starts from."""

    datasets: dict[str, str]
    encoders: dict[str, str]
    encoder_id: str | None
    dataset_hashes: dict[str, str | None]  # as registered; None where the contents were never read
    encoder_files: dict[str, dict[str, str]]  # sha256 by file, as registered


def absolute_path(home: Path, stored: str) -> Path:
    """A stored path made absolute; relative ones lie in ``home``, which may move."""
    return Path(home).resolve() / stored


def dataset_location(
    home: Path, dataset: Dataset, roots: Sequence[Root], fetched: Mapping[str, Path] = _NO_FETCHED
) -> Root:
    """Where a registered dataset lies. What runs made is the service's own; so is the sample, of this installation.

    Args:
        fetched: folders by their stored path that another home holds, and where they are here.

    Raises: UserError ``path_forbidden`` for what does not, or no longer, lie in one of ``roots``, links followed anew:
        a folder may have become a link since. ``missing_files`` for what is gone.
    """
    if dataset.name == SAMPLE_DATASET and dataset.path.endswith(SAMPLE_FILE):
        return Path(sample_path())
    if not os.path.isabs(dataset.path) and not is_url(dataset.path):
        return fetched.get(dataset.path) or absolute_path(home, dataset.path)
    return resolve_allowed(dataset.path, roots, "dataset")


def managed_paths(session: Session, spec: AnySpec) -> list[str]:
    """Stored paths of what a spec reads and the service keeps itself.

    Raises: UserError ``unknown_dataset``, ``unknown_encoder`` or ``unknown_collection``.
    """
    stored = [get_dataset(session, name).path for name in datasets_of(spec)]
    stored += [get_encoder(session, name).path for name in encoders_of(spec)]
    stored += [get_collection(session, name).path for name in collections_of(spec)]
    return [path for path in dict.fromkeys(stored) if not os.path.isabs(path) and not is_url(path)]


def resolve_inputs(
    session: Session, spec: AnySpec, home: Path, roots: Sequence[Root] = (), fetched: Mapping[str, Path] = _NO_FETCHED
) -> ResolvedInputs:
    """Find everything that a spec names.

    Args:
        roots: what a path in it may lie in, or a URL below.
        fetched: folders by their stored path that another home holds, and where they are here.

    Raises: UserError ``unknown_dataset``, ``unknown_encoder``, ``missing_files`` or ``path_forbidden``;
        ``encoder_mismatch`` for an encoder with which nothing can be added to the collection.
    """
    for field, place in data_paths(spec).items():
        resolve_allowed(place, roots, field)
    datasets = {name: get_dataset(session, name) for name in datasets_of(spec)}
    encoders = {name: get_encoder(session, name) for name in encoders_of(spec)}
    for name in collections_of(spec):
        check_collection_encoder(session, get_collection(session, name), encoders[encoders_of(spec)[0]])
    return ResolvedInputs(
        datasets={
            name: _check_present(dataset_location(home, dataset, roots, fetched)) for name, dataset in datasets.items()
        },
        encoders={
            name: _check_present(fetched.get(encoder.path) or absolute_path(home, encoder.path))
            for name, encoder in encoders.items()
        },
        encoder_id=next((encoder.id for encoder in encoders.values()), None),
        dataset_hashes={name: dataset.content_hash for name, dataset in datasets.items()},
        encoder_files={name: registered_files(encoder) for name, encoder in encoders.items()},
    )


def _check_present(place: Root) -> str:
    """Whether there is anything at a URL, the run itself finds out."""
    if isinstance(place, Path) and not place.exists():
        raise UserError("these files are gone; register them again", code="missing_files", file=place)
    return str(place)


def get_encoder(session: Session, id_or_name: str) -> EncoderRow:
    """The encoder of that id, else the newest of that name. Raises: UserError ``unknown_encoder``."""
    query = select(EncoderRow).where(or_(EncoderRow.id == id_or_name, EncoderRow.name == id_or_name))
    query = query.order_by((EncoderRow.id == id_or_name).desc(), EncoderRow.id.desc()).limit(1)
    found = session.scalars(query).one_or_none()
    if found is None:
        raise UserError(
            f"encoder {id_or_name!r} is not registered; the list of encoders has the names, or pre-train one",
            code="unknown_encoder",
        )
    return found


def encoders_by_weights_hash(session: Session, weights_hash: str) -> Sequence[EncoderRow]:
    """All encoders with these weights, oldest first. Their other files may differ."""
    return session.scalars(select(EncoderRow).where(EncoderRow.hash == weights_hash).order_by(EncoderRow.id)).all()


def list_encoders(session: Session) -> Sequence[EncoderRow]:
    """Newest first."""
    return session.scalars(select(EncoderRow).order_by(EncoderRow.id.desc())).all()


def get_collection(session: Session, id_or_name: str) -> CollectionRow:
    """Raises: UserError ``unknown_collection``."""
    found = session.scalars(_SELECT_COLLECTION, {"wanted": id_or_name}).one_or_none()
    if found is None:
        raise unknown_collection(id_or_name)
    return found


def unknown_collection(id_or_name: str) -> UserError:
    message = f"collection {id_or_name!r} does not exist; the list of collections has the names, or index one"
    return UserError(message, code="unknown_collection")


def list_collections(session: Session) -> Sequence[CollectionRow]:
    """Newest first."""
    return session.scalars(select(CollectionRow).order_by(CollectionRow.id.desc())).all()
