"""Completion of a run: final state, and registration of its output in the same transaction.

The output is copied to a hidden folder beside its target before the transaction and renamed into place as the last
step before the commit. An output whose registration fails is discarded, and the run fails with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lcl_core.common.errors import UserError
from lcl_core.common.files import Staged, remove_tree, stage
from lcl_core.db.collections import collection_changed_error, delete_compacted_changes
from lcl_core.db.datasets import record_version, upsert_dataset
from lcl_core.db.leases import NO_LEASE, Claim, check_lease, end_increments, lock_with_lease, transition
from lcl_core.db.metrics import QUARANTINED, Increment, record_increments
from lcl_core.db.models import CollectionRow, EncoderRow, Run, output_id, to_json_safe
from lcl_core.db.outbox import delete_stored_folder, enqueue_upload
from lcl_core.db.pgvector import drop_vectors, write_vectors
from lcl_core.db.quotas import delete_collection_bytes, folder_bytes, record_bytes
from lcl_core.db.registry import absolute_path, available_name, set_encoder_files
from lcl_core.db.session import Database, now
from lcl_core.db.states import State
from lcl_core.encoders.file_hashes import hash_files
from lcl_core.jobs import JOBS


@dataclass(frozen=True)
class RunSucceeded:
    result: dict[str, Any]


@dataclass(frozen=True)
class RunFailed:
    reason: dict[str, Any]  # {"code", "message", "field"?, "file"?, "line"?}


@dataclass(frozen=True)
class RunCancelled:
    pass


RunOutcome = RunSucceeded | RunFailed | RunCancelled


def complete_run(
    database: Database,
    claim: Claim,
    outcome: RunOutcome,
    run_dir: Path,
    home: Path,
    ran_seconds: float,
    holder: str | None = None,
) -> State:
    """Write the final state under the claim's token. Files are copied before the transaction, renamed in it.

    The vectors of a collection that PostgreSQL is to search are written in that transaction; meanwhile the caller keeps
    the lease.

    Args:
        holder: the home's id, if what lies there is to be sent to a store of artifacts.

    Raises: StaleLease; nothing was changed then.
    """
    product = None
    if isinstance(outcome, RunSucceeded):
        try:
            product = _stage_output(claim, outcome.result, run_dir, home)
        except UserError as error:
            outcome = RunFailed(error.to_dict())
    end = _Completion(outcome, product, run_dir, home, ran_seconds, holder)
    try:
        return _commit(database, claim, end)
    except IntegrityError:
        # another run made a collection of this name at the same moment: it is there now, and is replaced
        return _commit(database, claim, end)
    except UserError as error:  # what was made belongs nowhere any more
        return _commit(database, claim, replace(end, outcome=RunFailed(error.to_dict()), product=None))
    finally:
        if product is not None:
            product.discard()


@dataclass(frozen=True)
class _StagedOutput:
    """What a run made, the facts of its row, and what its row calls the place."""

    place: str  # relative to home, or a URL
    facts: dict[str, Any]
    staged: Staged | None  # None: it lies at the URL already
    vectors: str | None = None  # how the names of its tables begin, if it has some
    files: dict[str, str] = field(default_factory=dict)  # of an encoder: sha256 by name

    @property
    def id(self) -> str:
        return self.place.rpartition("/")[2]

    def publish(self) -> None:
        if self.staged is not None:
            self.staged.publish()

    def discard(self) -> None:
        if self.staged is not None:
            self.staged.discard()


class _SupersededOutput(NamedTuple):
    """What no row names any more."""

    path: str
    vectors: str | None


@dataclass(frozen=True)
class _Completion:
    outcome: RunOutcome
    product: _StagedOutput | None
    run_dir: Path
    home: Path
    ran_seconds: float
    holder: str | None


def _commit(database: Database, claim: Claim, end: _Completion) -> State:
    replaced: _SupersededOutput | None = None
    product = end.product
    sizes = _Sizes.of(end)  # read from the disk before a row is locked
    with database.session() as session:
        if product is not None and product.facts.get("index") == "pgvector":
            product = _with_vector_tables(
                session, claim, product
            )  # takes long: before a row is locked that others wait for
        run = lock_with_lease(session, claim)
        _finish(session, run, end.outcome, end.ran_seconds)
        if product is not None:
            output = JOBS[run.kind].output
            assert output is not None, "a kind without an output has no product"
            replaced = _REGISTER[output.noun](session, run, product)
        _enqueue_uploads(session, run, end)
        _record_bytes(session, run, end, sizes)
        session.flush()
        record_increments(session, [*end_increments(run), *_quarantine_increments(run)])
        if product is not None:
            product.publish()  # last before the commit: all that can fail has been done
        state = State(run.state)
    if replaced is not None:
        remove_tree(absolute_path(end.home, replaced.path))
        drop_vectors(database, replaced.vectors)
    return state


class _Sizes(NamedTuple):
    """Bytes of what the run made, and of its own folder without what both share."""

    product: int
    run_dir: int

    @classmethod
    def of(cls, end: _Completion) -> _Sizes:
        staged = end.product.staged if end.product is not None else None
        return cls(folder_bytes(staged.hidden) if staged is not None else 0, folder_bytes(end.run_dir, shared=False))


def _record_bytes(session: Session, run: Run, end: _Completion, sizes: _Sizes) -> None:
    if end.product is not None and end.product.staged is not None:
        record_bytes(session, end.product.place, run.owner, sizes.product)
    record_bytes(session, f"runs/{run.id}", run.owner, sizes.run_dir)


def _with_vector_tables(session: Session, claim: Claim, product: _StagedOutput) -> _StagedOutput:
    """Raises: StaleLease; UserError as ``write_vectors``."""
    assert product.staged is not None, "a collection is made in the run's own folder"
    check_lease(session, claim)
    return replace(product, vectors=write_vectors(session, product.staged.hidden))


def _enqueue_uploads(session: Session, run: Run, end: _Completion) -> None:
    """Have the store get what lies in this home now: what the run made, and the files that it shows."""
    if end.holder is None:
        return
    if end.product is not None and end.product.staged is not None:
        enqueue_upload(session, end.product.place, run.attempt, end.holder)
    if end.run_dir.is_dir():
        enqueue_upload(session, f"runs/{run.id}", run.attempt, end.holder)


def _finish(session: Session, run: Run, outcome: RunOutcome, ran_seconds: float) -> None:
    changes: dict[str, Any] = {"finished_at": now(session), "ran_seconds": ran_seconds, **NO_LEASE}
    if isinstance(outcome, RunSucceeded):
        transition(run, State.SUCCEEDED, result=to_json_safe(outcome.result), **changes)
        _record_dataset_hash(run, outcome.result)
    elif isinstance(outcome, RunFailed):
        transition(run, State.FAILED, reason=to_json_safe(outcome.reason), **changes)
    else:
        transition(run, State.CANCELLED, **changes)


def _record_dataset_hash(run: Run, result: dict[str, Any]) -> None:
    """The hash that the process itself found goes before the one that was registered, which may be none."""
    name, digest = run.spec.get("dataset"), result.get("dataset_hash")
    if isinstance(name, str) and isinstance(digest, str):
        inputs = run.inputs or {}
        run.inputs = {**inputs, "datasets": {**inputs.get("datasets", {}), name: digest}}


def _quarantine_increments(run: Run) -> list[Increment]:
    """What the run had to leave out: a conversion counts by reason, a validation once for all."""
    result = run.result or {}
    skipped = result.get("skipped") or {"": (result.get("report") or {}).get("quarantined", 0)}
    count = sum(skipped.values()) if isinstance(skipped, dict) else 0
    return [QUARANTINED.increment(float(count), kind=run.kind)] if count else []


def _stage_output(claim: Claim, result: dict[str, Any], run_dir: Path, home: Path) -> _StagedOutput | None:
    """Stage what a successful run made. Raises: UserError ``bad_result`` or ``artifact_corrupt``."""
    output = JOBS[claim.kind].output
    if output is None:
        return None
    noun = output.noun
    facts = result.get(noun)
    url = claim.spec.get("to")
    if isinstance(url, str) and isinstance(facts, dict):
        return _StagedOutput(url, facts, None)
    source = (run_dir / str(facts.get("path"))).resolve() if isinstance(facts, dict) else run_dir
    inside = source.is_relative_to(run_dir.resolve() / "artifacts")
    if not isinstance(facts, dict) or not inside or not source.is_dir():
        raise UserError(f"the run left no {noun} among its artifacts", code="bad_result")
    target = Path(home).resolve() / output.folder / output_id(output.id_prefix, claim.run_id)
    staged = stage(source, target, link=noun == "dataset")
    files = hash_files(staged.hidden) if noun == "encoder" else {}
    if noun == "encoder" and files.get("model.safetensors") != facts.get("hash", ""):
        staged.discard()
        raise UserError(
            "model.safetensors is not what the run wrote (its hash differs); resume the run to make it again",
            code="artifact_corrupt",
        )
    return _StagedOutput(f"{output.folder}/{target.name}", facts, staged, files=files)


def _register_encoder(session: Session, run: Run, product: _StagedOutput) -> None:
    info = {key: value for key, value in product.facts.items() if key not in ("path", "hash")}
    row = EncoderRow(
        id=product.id,
        name=product.id if run.name is None else _output_name(session, run, "encoder", run.name),
        path=product.place,
        hash=product.facts["hash"],
        owner=run.owner,
        run_id=run.id,
        info=to_json_safe(info),
        created_at=now(session),
    )
    set_encoder_files(row, product.files)
    session.add(row)
    run.encoder_id = product.id


def _output_name(session: Session, run: Run, noun: str, wanted: str) -> str:
    """The name that was asked for, or another if somebody took that since; the run's result says so."""
    name = available_name(session, noun, wanted, run.owner, run.id)
    if name != wanted:
        run.result = {**(run.result or {}), "registered_as": name}
    return name


def _register_collection(session: Session, run: Run, product: _StagedOutput) -> _SupersededOutput | None:
    """Returns what the collection of the same name leaves that this one replaces."""
    facts = product.facts
    if run.spec.get("mode") == "add":
        return _replace_directory(session, run, product)
    name = _output_name(session, run, "collection", run.spec["collection"])
    encoder = None if run.encoder_id is None else session.get(EncoderRow, run.encoder_id)
    older = session.scalars(select(CollectionRow).where(CollectionRow.name == name).with_for_update()).one_or_none()
    if older is not None:
        session.delete(older)
        delete_stored_folder(session, older.path)
        delete_collection_bytes(session, older.id)
        session.flush()
    session.add(
        CollectionRow(
            id=product.id,
            name=name,
            path=product.place,
            encoder_id=run.encoder_id,
            encoder_hash=str(facts.get("encoder_hash", "")),
            encoder_identity=None if encoder is None else encoder.identity,
            dataset=run.spec.get("dataset"),
            owner=run.owner,
            run_id=run.id,
            images=int(facts.get("images", 0)),
            texts=int(facts.get("texts", 0)),
            dim=int(facts.get("dim", 0)),
            vectors=product.vectors,
            created_at=now(session),
        )
    )
    run.collection_id = product.id
    return None if older is None else _SupersededOutput(older.path, older.vectors)


def _replace_directory(session: Session, run: Run, product: _StagedOutput) -> _SupersededOutput:
    """Give the collection its new directory; changes that are in it go, later ones stay. Returns: the older one.

    Raises: UserError ``collection_changed``.
    """
    facts = product.facts
    row = session.scalars(
        select(CollectionRow).where(CollectionRow.id == facts.get("id")).with_for_update()
    ).one_or_none()
    if row is None or row.path != facts.get("base"):
        raise collection_changed_error(run.spec["collection"])
    older = _SupersededOutput(row.path, row.vectors)
    row.path, row.vectors = product.place, product.vectors
    delete_stored_folder(session, older.path)
    left = list(delete_compacted_changes(session, row, int(facts["through"])))
    row.images = int(facts["images"]) + _image_count_change(left, product)
    row.texts = int(facts["texts"])
    # the encoder that it was made with stays its own: that of the run is equal to it, and may be somebody else's
    row.encoder_id, row.run_id = row.encoder_id or run.encoder_id, run.id
    run.collection_id = row.id
    return older


def _image_count_change(left: list[tuple[str, bool]], product: _StagedOutput) -> int:
    """By how many pictures the changes that stay make the new directory's more, or fewer."""
    if not left or product.staged is None:
        return 0
    from lcl_core.collections.collection import (
        Collection as Directory,  # numpy: only when there is something to compare
    )

    holds = Directory.open(product.staged.hidden).in_base
    return sum(there - holds(item) for item, there in left)


def _register_dataset(session: Session, run: Run, product: _StagedOutput) -> None:
    """A new dataset, or a new version of the one of that name; older versions stay on disk."""
    facts = product.facts
    name = _output_name(session, run, "dataset", run.spec["name"])
    dataset = upsert_dataset(session, name, product.place, run.owner)
    statistics = facts.get("statistics")
    record_version(
        session, dataset, str(facts["content_hash"]), to_json_safe(statistics), owner=run.owner, run_id=run.id
    )


_REGISTER: dict[str, Callable[[Session, Run, _StagedOutput], _SupersededOutput | None]] = {
    "encoder": _register_encoder,
    "collection": _register_collection,
    "dataset": _register_dataset,
}
