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
from lcl_core.encoders.files import hash_files, identity_hash
from lcl_core.pretrained import PretrainedEncoder, pretrained_encoders

WEIGHTS_FILE = "model.safetensors"
_FIRST_ID = "00"  # sorts before all ids that new_id makes
_HASH_DIGITS = 16


def seed_database(session: Session) -> list[EncoderRow]:
    """Register the bundled encoders; for a new one, queue an index run over the sample corpus.

    Called at every start, by any number of processes. An existing row changes only in its path, after a start of
    another installation: each reads its own copy (``artifacts.bundled_path``). A superseded encoder gets no row. The
    caller has registered the sample corpus, and commits.
    """
    rows = [_register_bundled(session, encoder) for encoder in pretrained_encoders()]
    return [row for row in rows if row is not None]


def _register_bundled(session: Session, encoder: PretrainedEncoder) -> EncoderRow | None:
    row_id, path = f"enc_{_FIRST_ID}{encoder.hash[:_HASH_DIGITS]}", str(encoder.directory)
    row = session.get(EncoderRow, row_id)
    if row is not None:
        if row.path != path:
            row.path, (row.info, row.identity) = path, _describe(encoder)
        return row
    if encoder.superseded is not None:
        return None
    info, identity = _describe(encoder)
    row = EncoderRow(id=row_id, name=encoder.name, path=path, hash=encoder.hash, identity=identity, info=info)
    row.owner, row.created_at = PRODUCT_OWNER, now(session)
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:  # another process has inserted it, and queues the index
        return session.get_one(EncoderRow, row_id)
    if session.scalars(select(CollectionRow).where(CollectionRow.name == SAMPLE_COLLECTION)).first() is None:
        spec = {"encoder": row.id, "dataset": SAMPLE_DATASET, "collection": SAMPLE_COLLECTION}
        submit(session, "index", spec, f"index-{SAMPLE_COLLECTION}", owner=PRODUCT_OWNER)
    return row


def _describe(encoder: PretrainedEncoder) -> tuple[dict[str, Any], str]:
    """(info, identity) of the row. The hash of the weights is the published one, whatever the file has now."""
    files = {**hash_files(encoder.directory), WEIGHTS_FILE: encoder.hash}
    figures = {"figures": list(encoder.figures)} if encoder.figures else {}
    return {**encoder.info, **figures, "files": files}, identity_hash(files)
