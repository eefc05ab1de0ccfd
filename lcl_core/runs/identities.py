"""Which encoder a collection was made with, and what is registered of an encoder's files.

A collection names its encoder by id. Another one stands in for it only if all of its files are the same: one with the
same weights and another tokenizer makes other vectors of the same texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from lcl_core.errors import UserError
from lcl_core.interop.identity import Hashes, differing, hashes_of, identity_of
from lcl_core.runs.database import Database
from lcl_core.runs.tables import Collection, Encoder

_WEIGHTS = "model.safetensors"  # of encoders that runs make
# Asked with every search, and dearer to build than to run.
_OWN = select(Encoder).where(Encoder.id == bindparam("wanted"))


def note_files(row: Encoder, files: Hashes) -> None:
    """Set what the row says of the encoder's files: sha256 by name, and the identity over all."""
    row.info = {**(row.info or {}), "files": dict(files)}
    row.identity = identity_of(files)


def registered_files(row: Encoder) -> dict[str, str]:
    """sha256 of the encoder's files by name; of a row of an older version, of the weights alone or of none."""
    known = row.info.get("files")
    if known:
        return dict(known)
    return {_WEIGHTS: row.hash} if row.run_id is not None else {}


def encoder_of(session: Session, collection: Collection) -> Encoder | None:
    """The very encoder that the collection was made with, if it is registered still."""
    if collection.encoder_id is None:
        return None
    return session.scalars(_OWN, {"wanted": collection.encoder_id}).one_or_none()


def equal_encoders(session: Session, collection: Collection) -> Sequence[Encoder]:
    """Other encoders that are equal to the collection's in all files, oldest first."""
    if collection.encoder_identity is None:
        return []
    query = select(Encoder).where(Encoder.identity == collection.encoder_identity).order_by(Encoder.id)
    return [row for row in session.scalars(query) if row.id != collection.encoder_id]


def check_encoder_of(session: Session, collection: Collection, encoder: Encoder) -> None:
    """Whether ``encoder`` makes the vectors that the collection holds. Raises: UserError ``encoder_mismatch``."""
    identity = collection.encoder_identity
    if encoder.id == collection.encoder_id or (identity is not None and identity == encoder.identity):
        return
    own = encoder_of(session, collection)
    made_with = f"collection {collection.name!r} was made with encoder {collection.encoder_hash[:12]}"
    if own is not None:
        made_with = f"collection {collection.name!r} was made with encoder {own.name!r} ({own.id})"
    if collection.encoder_hash == encoder.hash:
        names = differing(registered_files(own), registered_files(encoder)) if own is not None else []
        what = f"{encoder.name!r} has the same weights and another {', '.join(names) or 'set of files'}"
    else:
        what = f"{encoder.name!r} is {encoder.hash[:12]}"
    message = f"{made_with}, {what}; name that one, or make the collection anew with mode replace"
    raise UserError(message, code="encoder_mismatch", field="encoder")


def lack_identities(database: Database) -> bool:
    """Whether ``complete_identities`` has something to look at."""
    with database.reading() as session:
        return session.scalars(select(Encoder.id).where(Encoder.identity.is_(None)).limit(1)).first() is not None


def complete_identities(database: Database, home: Path) -> int:
    """Hash the files of encoders that an older version registered without, where they are on this disk.

    Files that have been changed since cannot be told from the original ones here, except by the weights' hash: a row
    whose weights are others stays as it is. Returns: how many rows were completed.
    """
    with database.reading() as session:
        missing = session.execute(select(Encoder.id, Encoder.path, Encoder.hash).where(Encoder.identity.is_(None)))
        found = [(row_id, Path(home).resolve() / path, digest) for row_id, path, digest in missing.tuples()]
    done = 0
    for row_id, directory, digest in found:
        try:
            files = hashes_of(directory)
        except OSError:  # it stays for the next start
            continue
        if _WEIGHTS in files and files[_WEIGHTS] == digest:
            done += _complete(database, row_id, files)
    return done


def _complete(database: Database, row_id: str, files: Hashes) -> bool:
    with database.session() as session:
        row = session.get(Encoder, row_id, with_for_update=True)
        if row is None or row.identity is not None:  # deleted meanwhile, or another process was quicker
            return False
        note_files(row, files)
        nameless = Collection.encoder_identity.is_(None)
        made_with_it = update(Collection).where(Collection.encoder_id == row_id, nameless)
        session.execute(made_with_it.values(encoder_identity=row.identity))
        return True
