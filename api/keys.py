"""API keys: ``PREFIX.SECRET``. The database holds the prefix and a keyed hash of the secret, never the secret.

A secret has 256 random bits, so a fast hash is enough: guessing is hopeless, and a slow one would be paid by every
request. The one key that people may choose themselves is hashed otherwise: ``api.configured_key``.
"""

from __future__ import annotations

import hmac
import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from lcl_core.runs.tables import ApiKey

if TYPE_CHECKING:
    from api.configured_key import ConfiguredKey

ROLES = ("viewer", "submitter", "admin")
MARK = "lcl_"
CONFIGURED = "configured"  # prefix of the key that a team sets itself
TOUCH_EVERY = timedelta(minutes=5)


def new_key(owner: str, role: str, expires: datetime | None = None) -> tuple[str, ApiKey]:
    """A fresh key and its row; the key itself is known only now."""
    prefix, secret = MARK + secrets.token_hex(6), secrets.token_urlsafe(32)
    return f"{prefix}.{secret}", _row(prefix, secret, owner, role, expires)


def find(session: Session, key: str, configured: ConfiguredKey | None) -> ApiKey | None:
    """The row of a valid, unexpired key, else None. Takes as long for a wrong secret as for an unknown prefix.

    Args:
        configured: the key that the settings make valid; it alone opens a row that was made from settings.
    """
    prefix, secret = split(key)
    row = session.get(ApiKey, prefix)
    if row is not None and row.configured:
        return row if configured is not None and configured.opens(key, row) else None
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


def split(key: str) -> tuple[str, str]:
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
