"""API keys ``PREFIX.SECRET``, the configured admin key, and authentication of requests.

The database holds a key's prefix and a keyed hash of its secret, which has 256 random bits: a fast hash is enough. The
configured admin key is ``LCL_ADMIN_KEY``, or the file ``key`` of the home folder.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from anyio import CapacityLimiter, to_thread
from fastapi.security.utils import get_authorization_scheme_param
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from api.core.errors import Problem
from api.core.settings import KEY_MARK, ApiSettings
from lcl_core.db.audit import record_action
from lcl_core.db.models import ApiKey
from lcl_core.db.session import Database

log = structlog.get_logger(__name__)
ROLES = ("viewer", "submitter", "admin")  # each may do what those before it may
CONFIGURED_PREFIX = "configured"  # of a configured key without a prefix of its own
LAST_USED_INTERVAL = timedelta(minutes=5)
CACHE_SECONDS = 1.0
_MAX_CACHED = 1024
_MAX_LOOKUPS = 4  # threads that verify uncached keys, invalid ones of anonymous clients among them
_CHALLENGE = {"www-authenticate": "Bearer"}


def utc_now() -> datetime:
    return datetime.now(UTC)


def role_level(role: str) -> int:
    return ROLES.index(role) if role in ROLES else -1


def new_key(owner: str, role: str, expires: datetime | None = None) -> tuple[str, ApiKey]:
    """A new key and its row. The key itself is stored nowhere."""
    prefix, secret = KEY_MARK + secrets.token_hex(6), secrets.token_urlsafe(32)
    row = ApiKey(
        prefix=prefix, hash=_secret_hash(prefix, secret), role=role, owner=owner, created_at=utc_now(), expires=expires
    )
    return f"{prefix}.{secret}", row


def verify_key(session: Session, key: str) -> ApiKey | None:
    """Row of a valid, unexpired key, else None. A wrong secret takes as long as an unknown prefix."""
    prefix, secret = split_key(key)
    row = session.get(ApiKey, prefix)
    digest, none = _secret_hash(prefix, secret), "0" * 64
    matches = hmac.compare_digest(digest, row.hash if row else none)
    if row is None or not matches:
        return None
    expired = row.expires is not None and row.expires <= utc_now()
    return None if expired else row


def last_used_is_stale(row: ApiKey) -> bool:
    return row.last_used is None or utc_now() - row.last_used > LAST_USED_INTERVAL


def split_key(key: str) -> tuple[str, str]:
    """(prefix, secret). A key chosen by people has no prefix of its own."""
    prefix, dot, secret = key.partition(".")
    return (prefix, secret) if dot and prefix.startswith(KEY_MARK) and len(prefix) <= 20 else (CONFIGURED_PREFIX, key)


def _secret_hash(prefix: str, secret: str) -> str:
    return hmac.digest(prefix.encode(), secret.encode(), "sha256").hex()


def ensure_configured_key(settings: ApiSettings, database: Database) -> None:
    """Make the configured key valid, with the role admin, and revoke every previously configured key.

    Several processes may do so at once. Raises: UserError ``bad_setting``.
    """
    settings.check_secrets()
    prefix, secret = split_key(settings.read_admin_key())
    digest = _secret_hash(prefix, secret)
    try:
        _configure_key(database, prefix, digest)
    except IntegrityError:  # another process inserted the row meanwhile
        _configure_key(database, prefix, digest)


def _configure_key(database: Database, prefix: str, digest: str) -> None:
    with database.session() as session:
        row = session.get(ApiKey, prefix)
        if row is None or row.hash != digest:
            record_action(session, "admin", prefix, "keys.configure", prefix)
            session.merge(
                ApiKey(prefix=prefix, hash=digest, owner="admin", role="admin", configured=True, created_at=utc_now())
            )
        others = delete(ApiKey).where(ApiKey.configured, ApiKey.prefix != prefix).returning(ApiKey.prefix)
        for revoked in session.scalars(others).all():
            record_action(session, "admin", prefix, "keys.revoke", revoked)
            log.info("a key that is no longer configured was revoked", prefix=revoked)


@dataclass(frozen=True)
class Principal:
    """Owner, role and prefix of the key that a request carries."""

    owner: str
    role: str
    prefix: str

    @property
    def visible_owner(self) -> str | None:
        """Owner of the runs and studies that the principal may see; None: all owners' (an admin)."""
        return None if self.role == "admin" else self.owner


def check_owner(principal: Principal, noun: str, name: str, owner: str, verb: str = "delete") -> None:
    """Raises: Problem 403 unless the principal may delete or otherwise change a shared object of ``owner``."""
    if principal.visible_owner not in (None, owner):
        raise Problem(403, "forbidden", f"{noun} {name!r} is {owner}'s: its owner or an admin may {verb} it")


class PrincipalCache:
    """Principals by digest of their key, for a second. A change of keys in this process clears it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[bytes, tuple[Principal, float, datetime | None]] = {}

    def get(self, key: str, moment: datetime) -> Principal | None:
        """The cached principal of a key that is still valid at ``moment``."""
        found = self._entries.get(_digest(key))
        if found is None:
            return None
        principal, cache_expires, key_expires = found
        return principal if self._clock() < cache_expires and (key_expires is None or moment < key_expires) else None

    def put(self, key: str, principal: Principal, key_expires: datetime | None) -> None:
        if len(self._entries) >= _MAX_CACHED:
            self._entries.clear()
        self._entries[_digest(key)] = principal, self._clock() + CACHE_SECONDS, key_expires

    def clear(self) -> None:
        self._entries.clear()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


class Authenticator:
    """Principals of ``Authorization`` headers: from the cache, else from the database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._threads = CapacityLimiter(_MAX_LOOKUPS)
        self.cache = PrincipalCache()

    async def authenticate(self, authorization: str | None) -> Principal:
        """A key that was valid within the last second costs no query; any other costs one, in one of few threads.

        Raises: Problem 401; SQLAlchemyError when the database does not answer.
        """
        scheme, key = get_authorization_scheme_param(authorization)
        if scheme.lower() != "bearer" or not key:
            message = (
                "send an API key: `Authorization: Bearer KEY`; the embedded default keeps one in "
                "the file `key` of its home folder"
            )
            raise Problem(401, "unauthorized", message, headers=_CHALLENGE)
        if cached := self.cache.get(key, utc_now()):
            return cached
        return await to_thread.run_sync(self._verify, key, limiter=self._threads)

    def _verify(self, key: str) -> Principal:
        with self._database.reading() as session:
            row = verify_key(session, key)
        if row is None:
            raise Problem(401, "unauthorized", "the API key is unknown, revoked or expired", headers=_CHALLENGE)
        if last_used_is_stale(row):
            self._record_use(row.prefix)
        principal = Principal(row.owner, row.role, row.prefix)
        self.cache.put(key, principal, row.expires)
        return principal

    def _record_use(self, prefix: str) -> None:
        """A database that accepts no writes, such as on a full disk, still answers reads."""
        try:
            with self._database.session() as session:
                row = session.get(ApiKey, prefix)
                if row is not None:
                    row.last_used = utc_now()
        except SQLAlchemyError as error:
            log.warning("the last use of a key was not noted", prefix=prefix, error=str(error).splitlines()[0])
