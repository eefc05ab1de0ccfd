"""Completion of a run: final state, and registration of its output in the same transaction.

The output is copied to a hidden folder beside its target before the transaction and renamed into place as the last
step before the commit. An output whose registration fails is discarded, and the run fails with the reason. What an
output supersedes is garbage (``lcl_core.db.garbage``), which is removed after its grace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lcl_core.common.errors import UserError
from lcl_core.common.files import Staged, stage
from lcl_core.common.settings import Settings
from lcl_core.db.artifacts import SERVER, discard, discard_folder, enqueue_upload
from lcl_core.db.collections import collection_changed_error, delete_compacted_changes
from lcl_core.db.datasets import record_version, upsert_dataset
from lcl_core.db.leases import NO_LEASE, Claim, check_lease, lock_with_lease, transition
from lcl_core.db.models import CollectionRow, EncoderRow, Garbage, Run, output_id
from lcl_core.db.registry import available_name, set_encoder_files
from lcl_core.db.session import Database, now, storable_json
from lcl_core.db.states import State
from lcl_core.encoders.files import hash_files
from lcl_core.jobs import JOBS
from lcl_core.specs.base import slug
from lcl_core.vector_indexes import (
    BATCH_ROWS,
    FILES,
    INDEXES,
    IndexLocation,
    Target,
    VectorBatch,
    check_index,
    index_name,
)

if TYPE_CHECKING:
    from lcl_core.collections.collection import Collection


@dataclass(frozen=True)
class RunSucceeded:
    result: dict[str, Any]


@dataclass(frozen=True)
class RunFailed:
    """``keeps_processes``: it is not known whether the run's processes have ended."""

    reason: dict[str, Any]  # {"code", "message", "field"?, "file"?, "line"?}
    keeps_processes: bool = False


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
    settings: Settings | None = None,
) -> State:
    """Write the final state under the claim's token, and register the output of a succeeded run.

    The index of a collection on a server is written before it is registered; the caller keeps the lease meanwhile.
    ``holder``: id of the home, if its folders are to be uploaded to an artifact store.

    Returns: the final state. Raises: StaleLease; nothing is changed then.
    """
    commit = partial(_commit, database, claim, run_dir, ran_seconds, holder)
    output = None
    try:
        if isinstance(outcome, RunSucceeded):
            output = _stage_output(claim, outcome.result, run_dir, home)
        if output is not None and output.vectors is not None:
            _write_index(database, claim, output, IndexLocation(settings=settings))
        try:
            return commit(outcome, output)
        except IntegrityError:
            # another run has just inserted a collection of this name: now it exists, and is replaced
            return commit(outcome, output)
    except UserError as error:  # the output cannot be registered
        return commit(RunFailed(error.to_dict()), None)
    finally:
        if output is not None and output.staged is not None:
            output.staged.discard()


@dataclass(frozen=True)
class _StagedOutput:
    """Staged output of a run: stored path, metadata of its row, and the staged copy."""

    noun: str  # encoder, collection or dataset
    path: str  # relative to home, or a URL
    metadata: dict[str, Any]
    staged: Staged | None  # None: the run wrote it to the URL
    vectors: str | None = None  # name of its index
    files: dict[str, str] = field(default_factory=dict)  # of an encoder: {name: sha256}

    @property
    def id(self) -> str:
        return self.path.rpartition("/")[2]

    def open_collection(self) -> Collection:
        from lcl_core.collections.collection import Collection  # keeps numpy out of a worker until it is needed

        assert self.staged is not None, "a collection is staged from the run directory"
        return Collection.open(self.staged.hidden)


def _commit(
    database: Database,
    claim: Claim,
    run_dir: Path,
    ran_seconds: float,
    holder: str | None,
    outcome: RunOutcome,
    output: _StagedOutput | None,
) -> State:
    with database.session() as session:
        run = lock_with_lease(session, claim)
        _finish(session, run, outcome, ran_seconds)
        if output is not None:
            _REGISTER[output.noun](session, run, output)
            if output.staged is not None and holder is not None:
                enqueue_upload(session, output.path, run.attempt, holder)
        if holder is not None and run_dir.is_dir():
            enqueue_upload(session, f"runs/{run.id}", run.attempt, holder)
        session.flush()
        if output is not None and output.staged is not None:
            output.staged.publish()  # last step before the commit: everything that can fail has been done
        return State(run.state)


def _write_index(database: Database, claim: Claim, output: _StagedOutput, location: IndexLocation) -> None:
    """Write the index of a collection on a server; it is garbage until the collection is registered.

    No transaction is open while the vectors are sent: PostgreSQL would end it, and SQLite has one writer.

    Raises: StaleLease; UserError of the index; UNREACHABLE.
    """
    assert output.vectors is not None, "it has an index"
    check_index(index_name(output.vectors), location)
    with database.session() as session:
        check_lease(session, claim)
        discard(session, SERVER, output.vectors)
    collection = output.open_collection()
    location = replace(location, name=output.vectors, dim=collection.dim)
    index = INDEXES[index_name(output.vectors)].index_class().at(location)

    def batches(target: Target) -> Iterator[VectorBatch]:
        total = collection.count(target)
        for start in range(0, total, BATCH_ROWS):
            rows = range(start, min(start + BATCH_ROWS, total))
            yield (rows, *collection.at(target, rows))

    for target in collection.vector_targets:
        index.build(target, batches(target))


def _supersede_index(session: Session, previous: str | None, vectors: str | None) -> None:
    """Of a collection, whose directory is superseded as well.

    The rows of a database that is restored from a backup, or has lost this transaction, name the previous index again.
    """
    if previous is not None:
        discard(session, SERVER, previous)
    if vectors is not None:
        session.execute(delete(Garbage).where(Garbage.home == SERVER, Garbage.path == vectors))


def _finish(session: Session, run: Run, outcome: RunOutcome, ran_seconds: float) -> None:
    changes: dict[str, Any] = {"finished_at": now(session), "ran_seconds": ran_seconds, **NO_LEASE}
    if not (isinstance(outcome, RunFailed) and outcome.keeps_processes):
        changes["handle"] = None
    if isinstance(outcome, RunSucceeded):
        transition(run, State.SUCCEEDED, result=storable_json(outcome.result), **changes)
        result = outcome.result
        computed = {run.spec.get("dataset"): result.get("dataset_hash"), **(result.get("dataset_hashes") or {})}
        hashes = {name: value for name, value in computed.items() if name and value}
        if hashes:  # they replace the registered ones, which may be None
            inputs = run.inputs or {}
            run.inputs = {**inputs, "datasets": {**inputs.get("datasets", {}), **hashes}}
    elif isinstance(outcome, RunFailed):
        transition(run, State.FAILED, reason=storable_json(outcome.reason), **changes)
    else:
        transition(run, State.CANCELLED, **changes)


def _stage_output(claim: Claim, result: dict[str, Any], run_dir: Path, home: Path) -> _StagedOutput | None:
    """Stage the output of a succeeded run."""
    output = JOBS[claim.kind].output
    if output is None:
        return None
    noun, folder = output.noun, output.folder
    metadata = result.get(noun)
    url = claim.spec.get("to")
    if isinstance(url, str) and isinstance(metadata, dict):
        return _StagedOutput(noun, url, metadata, None)
    source = (run_dir / str(metadata.get("path"))).resolve() if isinstance(metadata, dict) else run_dir
    inside = source.is_relative_to(run_dir.resolve() / "artifacts")
    if not isinstance(metadata, dict) or not inside or not source.is_dir():
        raise UserError(f"the run left no {noun} among its artifacts")
    target = Path(home).resolve() / folder / output_id(output.id_prefix, claim.run_id)
    staged = stage(source, target, link=noun == "dataset")
    files = hash_files(staged.hidden) if noun == "encoder" else {}
    if noun == "encoder" and files.get("model.safetensors") != metadata.get("hash", ""):
        staged.discard()
        raise UserError(
            "model.safetensors is not what the run wrote (its hash differs); resume the run to make it again",
        )
    index, vectors = str(metadata.get("index", FILES)), None
    if noun == "collection" and index in INDEXES:
        # from the run's id: another attempt replaces the index that an interrupted one has left on a server
        vectors = f"{index}_{target.name.rpartition('_')[2]}"
    return _StagedOutput(noun, f"{folder}/{target.name}", metadata, staged, vectors, files)


def _register_encoder(session: Session, run: Run, output: _StagedOutput) -> None:
    info = {key: value for key, value in output.metadata.items() if key not in ("path", "hash")}
    info |= {"display_name": run.name} if run.name and run.name != slug(run.name) else {}
    row = EncoderRow(
        id=output.id,
        name=_output_name(session, run, "encoder", run.name) if run.name and slug(run.name) else output.id,
        path=output.path,
        hash=output.metadata["hash"],
        owner=run.owner,
        run_id=run.id,
        info=storable_json(info),
        created_at=now(session),
    )
    set_encoder_files(row, output.files)
    session.add(row)
    run.encoder_id = output.id


def _output_name(session: Session, run: Run, noun: str, requested: str) -> str:
    """The requested name as a Name, or another if it is in use by now; the result of the run records a change."""
    name = available_name(session, noun, slug(requested), run.owner, run.id)
    if name != requested:
        run.result = {**(run.result or {}), "registered_as": name}
    return name


def _register_collection(session: Session, run: Run, output: _StagedOutput) -> None:
    """A new collection, in place of an older one of that name."""
    metadata = output.metadata
    if run.spec.get("mode") == "add":
        _replace_directory(session, run, output)
        return
    name = _output_name(session, run, "collection", run.spec["collection"])
    encoder = session.get(EncoderRow, run.encoder_id or "")
    previous = session.scalars(select(CollectionRow).where(CollectionRow.name == name).with_for_update()).one_or_none()
    if previous is not None:
        session.delete(previous)
        discard_folder(session, previous.path)
        session.flush()
    row = CollectionRow(id=output.id, name=name, path=output.path, vectors=output.vectors, created_at=now(session))
    row.owner, row.run_id, row.dataset = run.owner, run.id, run.spec.get("dataset")
    row.encoder_id, row.encoder_hash = run.encoder_id, str(metadata.get("encoder_hash", ""))
    row.encoder_identity = "" if encoder is None else encoder.identity  # deleted meanwhile
    row.images, row.texts, row.dim = (int(metadata.get(name, 0)) for name in ("images", "texts", "dim"))
    session.add(row)
    _supersede_index(session, None if previous is None else previous.vectors, output.vectors)
    run.collection_id = output.id


def _replace_directory(session: Session, run: Run, output: _StagedOutput) -> None:
    """Give the collection its new directory and delete the changes that it contains; later changes stay."""
    metadata = output.metadata
    query = select(CollectionRow).where(CollectionRow.id == metadata.get("id")).with_for_update()
    row = session.scalars(query).one_or_none()
    if row is None or row.path != metadata.get("base"):
        raise collection_changed_error(run.spec["collection"])
    discard_folder(session, row.path)
    _supersede_index(session, row.vectors, output.vectors)
    row.path, row.vectors = output.path, output.vectors
    later = delete_compacted_changes(session, row, int(metadata["through"]))
    if later:
        collection = output.open_collection()
        row.images = int(metadata["images"]) + sum(present - collection.in_base(item) for item, present in later)
    else:
        row.images = int(metadata["images"])
    row.texts = int(metadata["texts"])
    # the encoder of the run is identical to the collection's, and may belong to another owner
    row.encoder_id, row.run_id = row.encoder_id or run.encoder_id, run.id
    run.collection_id = row.id


def _register_dataset(session: Session, run: Run, output: _StagedOutput) -> None:
    """A new dataset, or a new version of an existing one; the previous versions stay on disk."""
    metadata = output.metadata
    name = _output_name(session, run, "dataset", run.spec["name"])
    dataset = upsert_dataset(session, name, output.path, run.owner)
    digest, statistics = str(metadata["content_hash"]), metadata.get("statistics")
    record_version(session, dataset, digest, statistics, owner=run.owner, run_id=run.id)


# by the noun of the kind's output
_REGISTER: dict[str, Callable[[Session, Run, _StagedOutput], None]] = {
    "encoder": _register_encoder,
    "collection": _register_collection,
    "dataset": _register_dataset,
}
