"""API keys ``PREFIX.SECRET``, the configured admin key, authentication of requests, and how many a key may send.

The database holds a key's prefix and a keyed hash of its secret, which has 256 random bits: a fast hash is enough. The
configured admin key is ``LCL_ADMIN_KEY``, or the file ``key`` of the home folder.
"""

from __future__ import annotations

import hmac
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from anyio import CapacityLimiter, to_thread
from fastapi.security.utils import get_authorization_scheme_param
from limits import RateLimitItemPerMinute
from limits.aio.strategies import FixedWindowRateLimiter
from limits.storage import storage_from_string
from sqlalchemy import delete, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api.core.errors import Problem
from api.core.settings import KEY_MARK, ApiSettings, new_key_text
from lcl_core.db.audit import record_action
from lcl_core.db.models import ApiKey
from lcl_core.db.session import Database

log = structlog.get_logger(__name__)
ROLES = ("viewer", "submitter", "admin")  # each may do what those before it may
CONFIGURED_PREFIX = "configured"  # of a configured key without a prefix of its own
LAST_USED_INTERVAL = timedelta(minutes=5)
CACHE_TIME = timedelta(seconds=1)
MAX_LOOKUPS = 4  # threads that look for keys: slow requests do not keep others from being authenticated
REDIS_SECONDS = 1.0  # within which it answers
RETRY_SECONDS = 10.0  # after which a silent Redis is asked again
CHALLENGE = {"www-authenticate": "Bearer"}


def utc_now() -> datetime:
    return datetime.now(UTC)


def role_level(role: str) -> int:
    return ROLES.index(role) if role in ROLES else -1


def new_key(owner: str, role: str, expires: datetime | None = None) -> tuple[str, ApiKey]:
    """A new key and its row. The key itself is stored nowhere."""
    key = new_key_text()
    prefix, secret = split_key(key)
    digest = secret_hash(prefix, secret)
    return key, ApiKey(prefix=prefix, hash=digest, role=role, owner=owner, created_at=utc_now(), expires=expires)


def verify_key(session: Session, key: str) -> ApiKey | None:
    """Row of a valid, unexpired key, else None. A wrong secret takes as long as an unknown prefix."""
    prefix, secret = split_key(key)
    row = session.get(ApiKey, prefix)
    matches = hmac.compare_digest(secret_hash(prefix, secret), row.hash if row else "0" * 64)
    if row is None or not matches or (row.expires is not None and row.expires <= utc_now()):
        return None
    return row


def split_key(key: str) -> tuple[str, str]:
    """(prefix, secret). A key chosen by people has no prefix of its own."""
    prefix, dot, secret = key.partition(".")
    return (prefix, secret) if dot and prefix.startswith(KEY_MARK) and len(prefix) <= 20 else (CONFIGURED_PREFIX, key)


def secret_hash(prefix: str, secret: str) -> str:
    return hmac.digest(prefix.encode(), secret.encode(), "sha256").hex()


def ensure_configured_key(settings: ApiSettings, database: Database) -> None:
    """Make the configured key valid, with the role admin, and revoke every previously configured key.

    Raises: UserError ``bad_setting``.
    """
    prefix, secret = split_key(settings.read_admin_key())
    digest = secret_hash(prefix, secret)
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


class Authenticator:
    """Principals of ``Authorization`` headers. A key that was valid within the last second costs no query."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._threads = CapacityLimiter(MAX_LOOKUPS)
        self._known: dict[str, tuple[Principal, datetime]] = {}  # with the time until which it needs no query

    async def authenticate(self, authorization: str | None) -> Principal:
        """Raises: Problem 401; SQLAlchemyError when the database does not answer."""
        scheme, key = get_authorization_scheme_param(authorization)
        if scheme.lower() != "bearer" or not key:
            message = (
                "send an API key: `Authorization: Bearer KEY`; the embedded default keeps one in "
                "the file `key` of its home folder"
            )
            raise Problem(401, "unauthorized", message, headers=CHALLENGE)
        principal, end = self._known.get(key, (None, utc_now()))
        if principal is not None and utc_now() < end:
            return principal
        return await to_thread.run_sync(self._verify, key, limiter=self._threads)

    def forget_keys(self) -> None:
        """A change of keys in this process is valid at once."""
        self._known.clear()

    def _verify(self, key: str) -> Principal:
        with self._database.reading() as session:
            row = verify_key(session, key)
        if row is None:
            self._known.pop(key, None)
            raise Problem(401, "unauthorized", "the API key is unknown, revoked or expired", headers=CHALLENGE)
        if row.last_used is None or utc_now() - row.last_used > LAST_USED_INTERVAL:
            with suppress(SQLAlchemyError), self._database.session() as session:  # a full disk still answers reads
                session.execute(update(ApiKey).where(ApiKey.prefix == row.prefix).values(last_used=utc_now()))
        principal, end = Principal(row.owner, row.role, row.prefix), utc_now() + CACHE_TIME
        self._known[key] = principal, min(end, row.expires or end)
        return principal


class RateLimiter:
    """Requests of each key in a minute, counted in Redis over all processes of the service; without one by each.

    While Redis does not answer, each counts for itself, too.
    """

    def __init__(self, per_minute: int, broker_url: str = "") -> None:
        self._limit = RateLimitItemPerMinute(per_minute)
        self._own = FixedWindowRateLimiter(storage_from_string("async+memory://"))
        self._shared: FixedWindowRateLimiter | None = None
        self._errors: type[Exception] | tuple[type[Exception], ...] = ()
        self._asked_again_at = 0.0
        if broker_url.startswith(("redis://", "rediss://")):
            seconds = {"socket_timeout": REDIS_SECONDS, "socket_connect_timeout": REDIS_SECONDS}
            storage = storage_from_string(f"async+{broker_url}", implementation="redispy", **seconds)
            self._shared, self._errors = FixedWindowRateLimiter(storage), storage.base_exceptions

    async def hit(self, key: str) -> None:
        """Count a request. Raises: Problem 429 ``too_many_requests``."""
        limiter = self._own
        if self._shared is not None and time.monotonic() >= self._asked_again_at:
            limiter = self._shared
        try:
            if await limiter.hit(self._limit, key):
                return
            reset = (await limiter.get_window_stats(self._limit, key)).reset_time
        except self._errors as error:
            log.warning("limits_not_shared", error=str(error))
            self._asked_again_at = time.monotonic() + RETRY_SECONDS
            return
        wait = max(1, math.ceil(reset - time.time()))
        message = f"more than {self._limit.amount} requests in a minute (LCL_REQUESTS_PER_MINUTE); wait {wait} s"
        raise Problem(429, "too_many_requests", message, headers={"retry-after": str(wait)})
