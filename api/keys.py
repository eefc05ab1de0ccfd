"""API keys: ``PREFIX.SECRET``. The database holds the prefix and a keyed hash of the secret, never the secret.

A secret has at least 128 bits of chance in it (or is refused in ``api.settings``), so a fast hash is enough:
guessing is hopeless, and a slow one would be paid by every request.
"""

from __future__ import annotations

import hmac
import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.settings import ApiSettings, weakness
from lcl_core.errors import UserError
from lcl_core.runs.audit import note_action
from lcl_core.runs.database import Database
from lcl_core.runs.tables import ApiKey

log = structlog.get_logger(__name__)

ROLES = ("viewer", "submitter", "admin")
MARK = "lcl_"
CONFIGURED = "configured"  # prefix of the key that a team sets itself
TOUCH_EVERY = timedelta(minutes=5)


def new_key(owner: str, role: str, expires: datetime | None = None) -> tuple[str, ApiKey]:
    """A fresh key and its row; the key itself is known only now."""
    prefix, secret = MARK + secrets.token_hex(6), secrets.token_urlsafe(32)
    return f"{prefix}.{secret}", _row(prefix, secret, owner, role, expires)


def find(session: Session, key: str) -> ApiKey | None:
    """The row of a valid, unexpired key, else None. Takes as long for a wrong secret as for an unknown prefix."""
    prefix, secret = _split(key)
    row = session.get(ApiKey, prefix)
    given, none = _hash(prefix, secret), "0" * 64
    current = hmac.compare_digest(given, row.hash if row else none)
    before = hmac.compare_digest(given, (row.previous_hash if row else None) or none)
    if row is None or not (current or (before and _in_grace(row))):
        return None
    expired = row.expires is not None and row.expires <= clock()
    return None if expired else row


def rotate(row: ApiKey, grace: timedelta) -> str:
    """A new secret for a key that stays what it is; the one before opens for ``grace`` more. Returns: the key."""
    secret, moment = secrets.token_urlsafe(32), clock()
    row.previous_hash, row.previous_until = (row.hash, moment + grace) if grace else (None, None)
    row.hash, row.rotated_at = _hash(row.prefix, secret), moment
    return f"{row.prefix}.{secret}"


def from_settings(settings: ApiSettings, prefix: str) -> bool:
    """Whether that key is the one that the settings or ``$LCL_HOME/key`` make valid at every start."""
    configured = settings.admin_key.get_secret_value()
    if not configured and settings.key_file.exists():
        configured = settings.key_file.read_text(encoding="ascii").strip()
    return bool(configured) and _split(configured)[0] == prefix


def _in_grace(row: ApiKey) -> bool:
    return row.previous_until is not None and row.previous_until > clock()


def next_change(row: ApiKey) -> datetime | None:
    """Until when what ``find`` found stays true without another look, for either secret; None: no end is known."""
    return min((end for end in (row.expires, row.previous_until) if end is not None and end > clock()), default=None)


def clock() -> datetime:
    return datetime.now(UTC)


def needs_touch(row: ApiKey) -> bool:
    """True when ``last_used`` is old enough to be worth a write."""
    return row.last_used is None or clock() - row.last_used > TOUCH_EVERY


def touch(row: ApiKey) -> None:
    """Note that the key is used; a secret whose grace is over is forgotten."""
    row.last_used = clock()
    if row.previous_hash is not None and not _in_grace(row):
        row.previous_hash = row.previous_until = None


def rank(role: str) -> int:
    """Roles grow: whoever may do more may do less."""
    return ROLES.index(role) if role in ROLES else -1


def ensure_first_key(settings: ApiSettings, database: Database) -> None:
    """The team's configured admin key, or the embedded default's own in ``$LCL_HOME/key``.

    Raises: UserError ``insecure_secret``.
    """
    settings.check_secrets()
    _store(database, settings.admin_key.get_secret_value() or _key_in_file(settings.key_file))


def _store(database: Database, key: str) -> None:
    """Make ``key`` valid with the role admin. Several processes may start at once."""
    prefix, secret = _split(key)
    for last in (False, True):
        try:
            with database.session() as session:
                _put_first(session, prefix, secret)
            return
        except IntegrityError:  # another process added the row between the look and the write
            if last:
                raise


def _put_first(session: Session, prefix: str, secret: str) -> None:
    row, digest = session.get(ApiKey, prefix), _hash(prefix, secret)
    if row is None or row.hash != digest:
        note_action(session, "admin", prefix, "keys.configure", prefix)
    if row is None:
        session.add(_row(prefix, secret, "admin", "admin", None))
    else:
        row.hash, row.role, row.expires, row.previous_hash = digest, "admin", None, None


def _key_in_file(file: Path) -> str:
    """The key in ``file``; made, with mode 600 and in one piece, when there is none."""
    if not file.exists():
        _make_key_file(file)
    if file.stat().st_mode & 0o077:
        file.chmod(0o600)
    kept = file.read_text(encoding="ascii").strip()
    if weakness(kept):
        raise UserError(
            f"{file} holds no usable key; remove it, and the next start makes a new one", code="insecure_secret"
        )
    return kept


def _make_key_file(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    key = f"{MARK}{secrets.token_hex(6)}.{secrets.token_urlsafe(32)}"
    beside = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        with os.fdopen(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as out:
            out.write(key + "\n")
            out.flush()
            os.fsync(out.fileno())
        os.link(beside, file)  # unlike a rename, never replaces another process's key
        log.info("made the first API key", file=str(file))
    except FileExistsError:
        log.info("another process made the first API key", file=str(file))
    finally:
        beside.unlink(missing_ok=True)


def _split(key: str) -> tuple[str, str]:
    """(prefix, secret). A key that people chose has no prefix of its own."""
    prefix, dot, secret = key.partition(".")
    return (prefix, secret) if dot and prefix.startswith(MARK) and len(prefix) <= 20 else (CONFIGURED, key)


def _hash(prefix: str, secret: str) -> str:
    return hmac.digest(prefix.encode(), secret.encode(), "sha256").hex()


def _row(prefix: str, secret: str, owner: str, role: str, expires: datetime | None) -> ApiKey:
    created = clock()
    return ApiKey(
        prefix=prefix, hash=_hash(prefix, secret), role=role, owner=owner, created_at=created, expires=expires
    )
