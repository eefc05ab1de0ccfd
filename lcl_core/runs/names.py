"""Whose a name is: of encoders, datasets and collections it belongs to the owner of the first that has it.

Otherwise whoever registers last under a name decides what everybody who uses it gets. An admin may use any name. What
comes with the product keeps its names, also while nothing of that name is registered.
"""

from __future__ import annotations

import zlib
from functools import cache

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session

from lcl_core.errors import UserError
from lcl_core.pretrained import pretrained_encoders
from lcl_core.runs.database import now
from lcl_core.runs.datasets import PRODUCT, SAMPLE
from lcl_core.runs.tables import ApiKey, Collection, Dataset, Encoder
from lcl_core.specs import AnySpec, ConvertSpec, IndexSpec, MatchSpec

SAMPLE_COLLECTION = "sample-drawings"
LONGEST = 100
_NAME_LOCK = 0x6C636C  # any constant: the first half of the keys of PostgreSQL's advisory locks on names
_TABLES: dict[str, type[Encoder | Dataset | Collection]] = {
    "encoder": Encoder,
    "dataset": Dataset,
    "collection": Collection,
}
# Asked with every submission, and dearer to build than to run.
_OWNERS = {
    noun: select(table.owner).where(table.name == bindparam("wanted")).order_by(table.created_at).limit(1)
    for noun, table in _TABLES.items()
}
# How ids begin: a reference is an id or a name. Datasets have names alone.
_IDS = {"encoder": "enc_", "collection": "col_"}


def check_name(session: Session, noun: str, name: str, owner: str, field: str = "name", *, admin: bool = False) -> None:
    """Whether ``owner`` may register an encoder, dataset or collection (``noun``) under ``name``.

    Args:
        field: of the request, for the error.
        admin: may use the names of others.

    Raises: UserError ``bad_name`` for what has the form of an id, ``name_taken``.
    """
    prefix = _IDS.get(noun)
    if prefix is not None and name.startswith(prefix):
        message = f"{name!r} has the form of an id; choose {_with_article(noun)} name that does not begin with {prefix}"
        raise UserError(message, code="bad_name", field=field)
    taken_by = None if admin else owner_of_name(session, noun, name)
    if taken_by not in (None, owner):
        who = "comes with the product" if taken_by == PRODUCT else f"is {taken_by}'s"
        message = f"the {noun} name {name!r} {who}; choose another name, or ask an admin to register it under this one"
        raise UserError(message, code="name_taken", field=field)


def check_names_of_run(
    session: Session, kind: str, spec: AnySpec, name: str | None, owner: str, *, admin: bool = False
) -> None:
    """The same for what a run is going to make. Raises: UserError as ``check_name``."""
    if kind == "pretrain" and name is not None:
        check_name(session, "encoder", name, owner, admin=admin)
    elif isinstance(spec, ConvertSpec | MatchSpec):
        check_name(session, "dataset", spec.name, owner, admin=admin)
    elif isinstance(spec, IndexSpec) and spec.mode == "replace":
        check_name(session, "collection", spec.collection, owner, "collection", admin=admin)


def free_name(session: Session, noun: str, name: str, owner: str, run_id: str) -> str:
    """``name``, or one of the run's own where another owner took it while the run was under way."""
    try:
        check_name(session, noun, name, owner, admin=_is_admin(session, owner))
    except UserError:
        return f"{name[: LONGEST - len(run_id) - 1]}-{run_id}"
    return name


def owner_of_name(session: Session, noun: str, name: str) -> str | None:
    """Who had the name first; None: nobody has it."""
    if name in _names_of_the_product()[noun]:
        return PRODUCT
    if noun == "encoder":
        hold_name(session, name)  # datasets and collections are unique by name in the database itself
    return session.scalars(_OWNERS[noun], {"wanted": name}).one_or_none()


def hold_name(session: Session, name: str) -> None:
    """Until the transaction's end nobody else who asks for this name goes on. On SQLite one writes at a time anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(_NAME_LOCK, zlib.crc32(name.encode()) >> 1)))


def _is_admin(session: Session, owner: str) -> bool:
    """Whether one of the owner's keys is an admin's: a run does not know with which key it was submitted."""
    query = select(ApiKey.expires).where(ApiKey.owner == owner, ApiKey.role == "admin")
    moment = now(session)
    return any(expires is None or expires > moment for expires in session.scalars(query))


@cache
def _names_of_the_product() -> dict[str, frozenset[str]]:
    return {
        "encoder": frozenset(found.name for found in pretrained_encoders()),
        "dataset": frozenset({SAMPLE}),
        "collection": frozenset({SAMPLE_COLLECTION}),
    }


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
