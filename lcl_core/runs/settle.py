"""The end of a run: its final state, and what it made registered in the same transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lcl_core.errors import UserError
from lcl_core.interop.identity import hashes_of
from lcl_core.runs.artifacts import Staged, remove_tree, stage
from lcl_core.runs.changes import fold
from lcl_core.runs.database import Database, now
from lcl_core.runs.datasets import note_contents, put_dataset
from lcl_core.runs.deposits import expect, forget
from lcl_core.runs.handover import made_anew
from lcl_core.runs.identities import note_files
from lcl_core.runs.ids import sibling_id
from lcl_core.runs.leases import RELEASED, Claim, held, look, ticks_of_end
from lcl_core.runs.names import free_name
from lcl_core.runs.plain import plain
from lcl_core.runs.registry import located
from lcl_core.runs.states import State
from lcl_core.runs.tables import Collection, Encoder, Run
from lcl_core.runs.tallies import QUARANTINED, Tick, tally
from lcl_core.runs.transitions import move
from lcl_core.runs.vector_tables import drop_vectors, write_vectors


@dataclass(frozen=True)
class Succeeded:
    result: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    reason: dict[str, Any]  # {"code", "message", "field"?, "file"?, "line"?}


@dataclass(frozen=True)
class Cancelled:
    pass


Outcome = Succeeded | Failed | Cancelled


def settle(
    database: Database,
    claim: Claim,
    outcome: Outcome,
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
    if isinstance(outcome, Succeeded):
        try:
            product = _product_of(claim, outcome.result, run_dir, home)
        except UserError as error:
            outcome = Failed(error.to_dict())
    end = _End(outcome, product, run_dir, home, ran_seconds, holder)
    try:
        return _commit(database, claim, end)
    except IntegrityError:
        # another run made a collection of this name at the same moment: it is there now, and is replaced
        return _commit(database, claim, end)
    except UserError as error:  # what was made belongs nowhere any more
        return _commit(database, claim, replace(end, outcome=Failed(error.to_dict()), product=None))
    finally:
        if product is not None:
            product.discard()


@dataclass(frozen=True)
class _Product:
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


class _Replaced(NamedTuple):
    """What no row names any more."""

    path: str
    vectors: str | None


@dataclass(frozen=True)
class _End:
    outcome: Outcome
    product: _Product | None
    run_dir: Path
    home: Path
    ran_seconds: float
    holder: str | None


def _commit(database: Database, claim: Claim, end: _End) -> State:
    replaced: _Replaced | None = None
    product = end.product
    with database.session() as session:
        if product is not None and product.facts.get("index") == "pgvector":
            product = _with_tables(session, claim, product)  # takes long: before a row is locked that others wait for
        run = held(session, claim)
        _finish(session, run, end.outcome, end.ran_seconds)
        if product is not None:
            replaced = _REGISTER[run.kind](session, run, product)
        _expect_deposits(session, run, end)
        session.flush()
        tally(session, [*ticks_of_end(run), *_ticks_of_result(run)])
        if product is not None:
            product.publish()  # last before the commit: all that can fail has been done
        state = State(run.state)
    if replaced is not None:
        remove_tree(located(end.home, replaced.path))
        drop_vectors(database, replaced.vectors)
    return state


def _with_tables(session: Session, claim: Claim, product: _Product) -> _Product:
    """Raises: StaleLease; UserError as ``write_vectors``."""
    assert product.staged is not None, "a collection is made in the run's own folder"
    look(session, claim)
    return replace(product, vectors=write_vectors(session, product.staged.hidden))


def _expect_deposits(session: Session, run: Run, end: _End) -> None:
    """Have the store get what lies in this home now: what the run made, and the files that it shows."""
    if end.holder is None:
        return
    if end.product is not None and end.product.staged is not None:
        expect(session, end.product.place, run.attempt, end.holder)
    if end.run_dir.is_dir():
        expect(session, f"runs/{run.id}", run.attempt, end.holder)


def _finish(session: Session, run: Run, outcome: Outcome, ran_seconds: float) -> None:
    changes: dict[str, Any] = {"finished_at": now(session), "ran_seconds": ran_seconds, **RELEASED}
    if isinstance(outcome, Succeeded):
        move(run, State.SUCCEEDED, result=plain(outcome.result), **changes)
        _note_what_was_read(run, outcome.result)
    elif isinstance(outcome, Failed):
        move(run, State.FAILED, reason=plain(outcome.reason), **changes)
    else:
        move(run, State.CANCELLED, **changes)


def _note_what_was_read(run: Run, result: dict[str, Any]) -> None:
    """The hash that the process itself found goes before the one that was registered, which may be none."""
    name, digest = run.spec.get("dataset"), result.get("dataset_hash")
    if isinstance(name, str) and isinstance(digest, str):
        inputs = run.inputs or {}
        run.inputs = {**inputs, "datasets": {**inputs.get("datasets", {}), name: digest}}


def _ticks_of_result(run: Run) -> list[Tick]:
    """What the run had to leave out: a conversion counts by reason, a validation once for all."""
    result = run.result or {}
    skipped = result.get("skipped") or {"": (result.get("report") or {}).get("quarantined", 0)}
    count = sum(skipped.values()) if isinstance(skipped, dict) else 0
    return [QUARANTINED.tick(float(count), kind=run.kind)] if count else []


def _product_of(claim: Claim, result: dict[str, Any], run_dir: Path, home: Path) -> _Product | None:
    """Stage what a successful run made. Raises: UserError ``bad_result`` or ``artifact_corrupt``."""
    if claim.kind not in _REGISTER:
        return None
    noun, prefix, folder = _MAKES[claim.kind]
    facts = result.get(noun)
    url = claim.spec.get("to")
    if isinstance(url, str) and isinstance(facts, dict):
        return _Product(url, facts, None)
    source = (run_dir / str(facts.get("path"))).resolve() if isinstance(facts, dict) else run_dir
    inside = source.is_relative_to(run_dir.resolve() / "artifacts")
    if not isinstance(facts, dict) or not inside or not source.is_dir():
        raise UserError(f"the run left no {noun} among its artifacts", code="bad_result")
    target = Path(home).resolve() / folder / sibling_id(prefix, claim.run_id)
    staged = stage(source, target, link=noun == "dataset")
    files = hashes_of(staged.hidden) if noun == "encoder" else {}
    if noun == "encoder" and files.get("model.safetensors") != facts.get("hash", ""):
        staged.discard()
        raise UserError(
            "model.safetensors is not what the run wrote (its hash differs); resume the run to make it again",
            code="artifact_corrupt",
        )
    return _Product(f"{folder}/{target.name}", facts, staged, files=files)


def _register_encoder(session: Session, run: Run, product: _Product) -> None:
    info = {key: value for key, value in product.facts.items() if key not in ("path", "hash")}
    row = Encoder(
        id=product.id,
        name=product.id if run.name is None else _name_for(session, run, "encoder", run.name),
        path=product.place,
        hash=product.facts["hash"],
        owner=run.owner,
        run_id=run.id,
        info=plain(info),
        created_at=now(session),
    )
    note_files(row, product.files)
    session.add(row)
    run.encoder_id = product.id


def _name_for(session: Session, run: Run, noun: str, wanted: str) -> str:
    """The name that was asked for, or another if somebody took that since; the run's result says so."""
    name = free_name(session, noun, wanted, run.owner, run.id)
    if name != wanted:
        run.result = {**(run.result or {}), "registered_as": name}
    return name


def _register_collection(session: Session, run: Run, product: _Product) -> _Replaced | None:
    """Returns what the collection of the same name leaves that this one replaces."""
    facts = product.facts
    if run.spec.get("mode") == "add":
        return _add_to_collection(session, run, product)
    name = _name_for(session, run, "collection", run.spec["collection"])
    encoder = None if run.encoder_id is None else session.get(Encoder, run.encoder_id)
    older = session.scalars(select(Collection).where(Collection.name == name).with_for_update()).one_or_none()
    if older is not None:
        session.delete(older)
        forget(session, older.path)
        session.flush()
    session.add(
        Collection(
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
    return None if older is None else _Replaced(older.path, older.vectors)


def _add_to_collection(session: Session, run: Run, product: _Product) -> _Replaced:
    """Give the collection its new directory; changes that are in it go, later ones stay. Returns: the older one.

    Raises: UserError ``collection_changed``.
    """
    facts = product.facts
    row = session.scalars(select(Collection).where(Collection.id == facts.get("id")).with_for_update()).one_or_none()
    if row is None or row.path != facts.get("base"):
        raise made_anew(run.spec["collection"])
    older = _Replaced(row.path, row.vectors)
    row.path, row.vectors = product.place, product.vectors
    forget(session, older.path)
    left = list(fold(session, row, int(facts["through"])))
    row.images = int(facts["images"]) + _difference(left, product)
    row.texts = int(facts["texts"])
    # the encoder that it was made with stays its own: that of the run is equal to it, and may be somebody else's
    row.encoder_id, row.run_id = row.encoder_id or run.encoder_id, run.id
    run.collection_id = row.id
    return older


def _difference(left: list[tuple[str, bool]], product: _Product) -> int:
    """By how many pictures the changes that stay make the new directory's more, or fewer."""
    if not left or product.staged is None:
        return 0
    from lcl_core.serving.collection import Collection as Directory  # numpy: only when there is something to compare

    holds = Directory.open(product.staged.hidden).in_directory
    return sum(there - holds(item) for item, there in left)


def _register_dataset(session: Session, run: Run, product: _Product) -> None:
    """A new dataset, or a new version of the one of that name; older versions stay on disk."""
    facts = product.facts
    name = _name_for(session, run, "dataset", run.spec["name"])
    dataset = put_dataset(session, name, product.place, run.owner)
    statistics = facts.get("statistics")
    note_contents(session, dataset, str(facts["content_hash"]), plain(statistics), owner=run.owner, run_id=run.id)


_DATASET = ("dataset", "data", "datasets")
_MAKES = {
    "pretrain": ("encoder", "enc", "encoders"),
    "index": ("collection", "col", "collections"),
    "convert": _DATASET,
    "match": _DATASET,
}
_REGISTER: dict[str, Callable[[Session, Run, _Product], _Replaced | None]] = {
    "pretrain": _register_encoder,
    "index": _register_collection,
    "convert": _register_dataset,
    "match": _register_dataset,
}
