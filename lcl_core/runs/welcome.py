"""What a fresh service has to offer: encoders that come with the product, and a collection to search with one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lcl_core.interop.identity import hashes_of, identity_of
from lcl_core.pretrained import Pretrained, pretrained_encoders
from lcl_core.runs.database import now
from lcl_core.runs.datasets import PRODUCT, SAMPLE
from lcl_core.runs.names import SAMPLE_COLLECTION
from lcl_core.runs.submission import submit
from lcl_core.runs.tables import Collection, Encoder

WEIGHTS = "model.safetensors"
_FIRST = "00"  # identifiers sort by time; these come before all that a service makes
_DIGITS = 16


def welcome(session: Session) -> list[Encoder]:
    """Register the encoders that come with the product; with one that is new here, queue an index of the sample corpus.

    Done at every start, by any number of processes: what is there is left as it is, apart from the place of an
    encoder, which may have moved with a new installation. The caller has registered the sample corpus, and commits.
    """
    return [_register(session, found) for found in pretrained_encoders()]


def _register(session: Session, found: Pretrained) -> Encoder:
    row_id, path = f"enc_{_FIRST}{found.hash[:_DIGITS]}", str(found.directory)
    row = session.get(Encoder, row_id)
    if row is not None:
        if row.path != path or row.identity is None:
            row.path, (row.info, row.identity) = path, _described(found)
        return row
    info, identity = _described(found)
    row = Encoder(
        id=row_id,
        name=found.name,
        path=path,
        hash=found.hash,
        identity=identity,
        owner=PRODUCT,
        info=info,
        created_at=now(session),
    )
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:  # another process starts as well, and queues the index
        return session.get_one(Encoder, row_id)
    _queue_index(session, row)
    return row


def _described(found: Pretrained) -> tuple[dict[str, Any], str]:
    """What the row says of it, and its identity. Its weights are what its notes say, whatever lies there now."""
    files = {**hashes_of(found.directory), WEIGHTS: found.hash}
    return {**found.info, "files": files}, identity_of(files)


def _queue_index(session: Session, encoder: Encoder) -> None:
    """Unless the collection is there already."""
    if session.scalars(select(Collection).where(Collection.name == SAMPLE_COLLECTION)).first() is None:
        spec = {"encoder": encoder.id, "dataset": SAMPLE, "collection": SAMPLE_COLLECTION}
        submit(session, "index", spec, f"index-{SAMPLE_COLLECTION}", owner=PRODUCT)
