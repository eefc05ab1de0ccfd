"""API keys ``PREFIX.SECRET``, the configured admin key, and the cache of authenticated principals.

The database holds a key's prefix and a keyed hash of its secret, which has 256 random bits: a fast hash is enough.

The configured admin key (``LCL_ADMIN_KEY``, or the file ``key`` of the home folder) may be chosen by people, so its row
holds an HMAC under a pepper that is not in the database: ``LCL_KEY_PEPPER``, or the file ``key-pepper`` of the home
folder, which all processes of the api share. Without the pepper the database allows no dictionary attack.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.core.errors import Problem
from api.core.settings import ApiSettings, secret_weakness
from lcl_core.common.errors import UserError
from lcl_core.common.home_folder import load_or_create_secret
from lcl_core.db.audit import record_action
from lcl_core.db.models import ApiKey
from lcl_core.db.session import Database

ROLES = ("viewer", "submitter", "admin")
KEY_MARK = "lcl_"
CONFIGURED_PREFIX = "configured"  # prefix of the key that a team sets itself
LAST_USED_INTERVAL = timedelta(minutes=5)


def new_key(owner: str, role: str, expires: datetime | None = None) -> tuple[str, ApiKey]:
    """A fresh key and its row; the key itself is known only now."""
    prefix, secret = KEY_MARK + secrets.token_hex(6), secrets.token_urlsafe(32)
    return f"{prefix}.{secret}", _key_row(prefix, secret, owner, role, expires)


def verify_key(session: Session, key: str, configured: ConfiguredKey | None) -> ApiKey | None:
    """The row of a valid, unexpired key, else None. Takes as long for a wrong secret as for an unknown prefix.

    Args:
        configured: the key that the settings make valid; it alone opens a row that was made from settings.
    """
    prefix, secret = split_key(key)
    row = session.get(ApiKey, prefix)
    if row is not None and row.configured:
        return row if configured is not None and configured.matches(key, row) else None
    given, none = _secret_hash(prefix, secret), "0" * 64
    current = hmac.compare_digest(given, row.hash if row else none)
    before = hmac.compare_digest(given, (row.previous_hash if row else None) or none)
    if row is None or not (current or (before and _in_grace(row))):
        return None
    expired = row.expires is not None and row.expires <= utc_now()
    return None if expired else row


def rotate_key(row: ApiKey, grace: timedelta) -> str:
    """A new secret for a key that stays what it is; the one before opens for ``grace`` more. Returns: the key."""
    secret, moment = secrets.token_urlsafe(32), utc_now()
    row.previous_hash, row.previous_until = (row.hash, moment + grace) if grace else (None, None)
    row.hash, row.rotated_at = _secret_hash(row.prefix, secret), moment
    return f"{row.prefix}.{secret}"


def _in_grace(row: ApiKey) -> bool:
    return row.previous_until is not None and row.previous_until > utc_now()


def cache_valid_until(row: ApiKey) -> datetime | None:
    """Until when what ``find`` found stays true without another look, for either secret; None: no end is known."""
    return min((end for end in (row.expires, row.previous_until) if end is not None and end > utc_now()), default=None)


def utc_now() -> datetime:
    return datetime.now(UTC)


def last_used_is_stale(row: ApiKey) -> bool:
    """True when ``last_used`` is old enough to be worth a write."""
    return row.last_used is None or utc_now() - row.last_used > LAST_USED_INTERVAL


def update_last_used(row: ApiKey) -> None:
    """Note that the key is used; a secret whose grace is over is forgotten."""
    row.last_used = utc_now()
    if row.previous_hash is not None and not _in_grace(row):
        row.previous_hash = row.previous_until = None


def role_level(role: str) -> int:
    """Roles grow: whoever may do more may do less."""
    return ROLES.index(role) if role in ROLES else -1


def split_key(key: str) -> tuple[str, str]:
    """(prefix, secret). A key that people chose has no prefix of its own."""
    prefix, dot, secret = key.partition(".")
    return (prefix, secret) if dot and prefix.startswith(KEY_MARK) and len(prefix) <= 20 else (CONFIGURED_PREFIX, key)


def _secret_hash(prefix: str, secret: str) -> str:
    return hmac.digest(prefix.encode(), secret.encode(), "sha256").hex()


def _key_row(prefix: str, secret: str, owner: str, role: str, expires: datetime | None) -> ApiKey:
    created = utc_now()
    return ApiKey(
        prefix=prefix, hash=_secret_hash(prefix, secret), role=role, owner=owner, created_at=created, expires=expires
    )


log = structlog.get_logger(__name__)


class ConfiguredKey:
    """The key as this process found it when it started.

    Args:
        key: as it stands in the setting or the file.
        pepper: of at least 128 random bits.
    """

    def __init__(self, key: str, pepper: bytes) -> None:
        self.prefix, _ = split_key(key)
        self._pepper = pepper
        self._pepper_id = hmac.digest(pepper, b"pepper", "sha256").hex()[:16]
        self.hash = self._hash(key)

    def matches(self, key: str, row: ApiKey) -> bool:
        """Whether a caller's key is this one, and still the one that the row was last made for.

        A process with other settings may have changed the row since. One whose pepper is another (a machine with a home
        of its own) leaves a hash that cannot be compared here; then the settings of this process decide.
        """
        same = hmac.compare_digest(self._hash(key), self.hash)
        comparable = row.hash.startswith(f"{self._pepper_id}:")
        return same and (not comparable or hmac.compare_digest(row.hash, self.hash))

    def _hash(self, key: str) -> str:
        """81 characters: which pepper it was, and the HMAC."""
        given = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        return f"{self._pepper_id}:{hmac.digest(self._pepper, given, 'sha256').hex()}"


def ensure_configured_key(settings: ApiSettings, database: Database) -> ConfiguredKey:
    """Make the configured key valid, with the role admin, and end every other that was configured before.

    Several processes may start at once. Raises: UserError ``insecure_secret``.
    """
    settings.check_secrets()
    configured = ConfiguredKey(_read_configured_key(settings), _read_pepper(settings))
    for last in (False, True):
        try:
            with database.session() as session:
                _upsert_configured_key(session, configured)
                _revoke_other_configured_keys(session, configured.prefix)
            break
        except IntegrityError:  # another process added the row between the look and the write
            if last:
                raise
    return configured


def _upsert_configured_key(session: Session, configured: ConfiguredKey) -> None:
    row = session.get(ApiKey, configured.prefix)
    if row is None or row.hash != configured.hash:
        record_action(session, "admin", configured.prefix, "keys.configure", configured.prefix)
    if row is None:
        row = ApiKey(prefix=configured.prefix, owner="admin", created_at=utc_now())
        session.add(row)
    row.hash, row.role, row.expires, row.configured = configured.hash, "admin", None, True
    row.previous_hash = row.previous_until = None


def _revoke_other_configured_keys(session: Session, prefix: str) -> None:
    session.flush()
    others = delete(ApiKey).where(ApiKey.configured, ApiKey.prefix != prefix).returning(ApiKey.prefix)
    for ended in session.scalars(others).all():
        record_action(session, "admin", prefix, "keys.revoke", ended)
        log.info("a key that is no longer configured was revoked", prefix=ended)


def _read_configured_key(settings: ApiSettings) -> str:
    key = settings.admin_key.get_secret_value() or load_or_create_secret(settings.key_file, _generate_admin_key)
    if secret_weakness(key):
        message = f"{settings.key_file} holds no usable key; remove it, and the next start makes a new one"
        raise UserError(message, code="insecure_secret")
    return key


def _generate_admin_key() -> str:
    log.info("making the first API key")
    return f"{KEY_MARK}{secrets.token_hex(6)}.{secrets.token_urlsafe(32)}"


def _read_pepper(settings: ApiSettings) -> bytes:
    file = settings.home / "key-pepper"
    given = settings.key_pepper.get_secret_value() or load_or_create_secret(file, lambda: secrets.token_hex(32))
    if len(given) < 32:
        raise UserError(f"{file} is damaged; remove it, and the next start makes a new one", code="insecure_secret")
    return given.encode()


CACHE_SECONDS = 1.0
_MAX_CACHED = 1024


@dataclass(frozen=True)
class Principal:
    """Whose key came with the request."""

    owner: str
    role: str
    prefix: str

    @property
    def visible_owner(self) -> str | None:
        """Whose runs and studies: its owner's; None: everybody's, which is an admin's sight."""
        return None if self.role == "admin" else self.owner


def check_owner(caller: Principal, noun: str, name: str, owner: str) -> None:
    """Raises: Problem 403 unless what everybody sees is the caller's own to delete."""
    if caller.visible_owner not in (None, owner):
        raise Problem(403, "forbidden", f"{noun} {name!r} is {owner}'s: its owner or an admin may delete it")


@dataclass(frozen=True)
class _CacheEntry:
    """``until``: by the clock of Callers; ``ends``: by everybody's."""

    caller: Principal
    cache_expires: float
    key_expires: datetime | None


class PrincipalCache:
    """Callers by their keys, for a second: a client that asks much is looked up once in it. Thread-safe.

    A change of keys in this process is seen at once (``forget``), one in another within that second.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[bytes, _CacheEntry] = {}
        self._version = 0
        self._lock = threading.Lock()

    @property
    def version(self) -> int:
        """A look at the database that began before the last change must not be noted after it."""
        with self._lock:
            return self._version

    def get(self, key: str, moment: datetime) -> Principal | None:
        """Whose key it is, if that was found out within the last second and is true at this ``moment`` as well."""
        with self._lock:
            found = self._known.get(_digest(key))
        if (
            found is None
            or self._clock() >= found.cache_expires
            or (found.key_expires is not None and moment >= found.key_expires)
        ):
            return None
        return found.caller

    def put(self, key: str, caller: Principal, changes: int, ends: datetime | None) -> None:
        """Remember a valid key.

        Args:
            changes: as they were before the database was asked.
            ends: the key may not open from then on; None: no such moment is known.
        """
        with self._lock:
            if changes != self._version:
                return
            if len(self._known) >= _MAX_CACHED:
                self._known.clear()
            self._known[_digest(key)] = _CacheEntry(caller, self._clock() + CACHE_SECONDS, ends)

    def clear(self) -> None:
        """Keys have changed."""
        with self._lock:
            self._version += 1
            self._known.clear()


def _digest(key: str) -> bytes:
    """No key is kept in memory for longer than its request."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
