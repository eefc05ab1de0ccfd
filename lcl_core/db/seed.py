"""Seed data: register the bundled encoders, and queue an index of the sample corpus."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lcl_core.db.datasets import PRODUCT_OWNER, SAMPLE_DATASET
from lcl_core.db.models import CollectionRow, EncoderRow
from lcl_core.db.registry import SAMPLE_COLLECTION
from lcl_core.db.session import now
from lcl_core.db.submit import submit
from lcl_core.encoders.file_hashes import hash_files, identity_hash
from lcl_core.pretrained import PretrainedEncoder, pretrained_encoders

WEIGHTS_FILE = "model.safetensors"
_FIRST_ID = "00"  # identifiers sort by time; these come before all that a service makes
_HASH_DIGITS = 16


def seed_database(session: Session) -> list[EncoderRow]:
    """Register the encoders that come with the product; with one that is new here, queue an index of the sample corpus.

    Done at every start, by any number of processes: what is there is left as it is, apart from the place of an
    encoder, which may have moved with a new installation. The caller has registered the sample corpus, and commits.
    """
    return [_register_bundled(session, found) for found in pretrained_encoders()]


def _register_bundled(session: Session, found: PretrainedEncoder) -> EncoderRow:
    row_id, path = f"enc_{_FIRST_ID}{found.hash[:_HASH_DIGITS]}", str(found.directory)
    row = session.get(EncoderRow, row_id)
    if row is not None:
        if row.path != path or row.identity is None:
            row.path, (row.info, row.identity) = path, _describe(found)
        return row
    info, identity = _describe(found)
    row = EncoderRow(
        id=row_id,
        name=found.name,
        path=path,
        hash=found.hash,
        identity=identity,
        owner=PRODUCT_OWNER,
        info=info,
        created_at=now(session),
    )
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:  # another process starts as well, and queues the index
        return session.get_one(EncoderRow, row_id)
    _queue_sample_index(session, row)
    return row


def _describe(found: PretrainedEncoder) -> tuple[dict[str, Any], str]:
    """What the row says of it, and its identity. Its weights are what its notes say, whatever lies there now."""
    files = {**hash_files(found.directory), WEIGHTS_FILE: found.hash}
    return {**found.info, "files": files}, identity_hash(files)


def _queue_sample_index(session: Session, encoder: EncoderRow) -> None:
    """Unless the collection is there already."""
    if session.scalars(select(CollectionRow).where(CollectionRow.name == SAMPLE_COLLECTION)).first() is None:
        spec = {"encoder": encoder.id, "dataset": SAMPLE_DATASET, "collection": SAMPLE_COLLECTION}
        submit(session, "index", spec, f"index-{SAMPLE_COLLECTION}", owner=PRODUCT_OWNER)
