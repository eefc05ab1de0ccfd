"""The admin key that ``LCL_ADMIN_KEY``, or the file ``key`` of the home folder, makes valid at every start.

People may choose it, so a fast hash of it alone would let whoever finds the database try words until one fits. Its row
holds an HMAC under a pepper, a random value that is not in the database: ``LCL_KEY_PEPPER``, or the file ``key-pepper``
of the home folder, which the copies of the api share. Without the pepper no guess can be checked.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

import structlog
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.keys import MARK, clock, split
from api.settings import ApiSettings, weakness
from lcl_core.errors import UserError
from lcl_core.runs.audit import note_action
from lcl_core.runs.database import Database
from lcl_core.runs.tables import ApiKey
from lcl_core.secret_file import kept_secret

log = structlog.get_logger(__name__)


class ConfiguredKey:
    """The key as this process found it when it started.

    Args:
        key: as it stands in the setting or the file.
        pepper: of at least 128 random bits.
    """

    def __init__(self, key: str, pepper: bytes) -> None:
        self.prefix, _ = split(key)
        self._pepper = pepper
        self._pepper_id = hmac.digest(pepper, b"pepper", "sha256").hex()[:16]
        self.hash = self._hash(key)

    def opens(self, key: str, row: ApiKey) -> bool:
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


def ensure_first_key(settings: ApiSettings, database: Database) -> ConfiguredKey:
    """Make the configured key valid, with the role admin, and end every other that was configured before.

    Several processes may start at once. Raises: UserError ``insecure_secret``.
    """
    settings.check_secrets()
    configured = ConfiguredKey(_configured(settings), _pepper(settings))
    for last in (False, True):
        try:
            with database.session() as session:
                _put(session, configured)
                _end_others(session, configured.prefix)
            break
        except IntegrityError:  # another process added the row between the look and the write
            if last:
                raise
    return configured


def _put(session: Session, configured: ConfiguredKey) -> None:
    row = session.get(ApiKey, configured.prefix)
    if row is None or row.hash != configured.hash:
        note_action(session, "admin", configured.prefix, "keys.configure", configured.prefix)
    if row is None:
        row = ApiKey(prefix=configured.prefix, owner="admin", created_at=clock())
        session.add(row)
    row.hash, row.role, row.expires, row.configured = configured.hash, "admin", None, True
    row.previous_hash = row.previous_until = None


def _end_others(session: Session, prefix: str) -> None:
    session.flush()
    others = delete(ApiKey).where(ApiKey.configured, ApiKey.prefix != prefix).returning(ApiKey.prefix)
    for ended in session.scalars(others).all():
        note_action(session, "admin", prefix, "keys.revoke", ended)
        log.info("a key that is no longer configured was revoked", prefix=ended)


def _configured(settings: ApiSettings) -> str:
    key = settings.admin_key.get_secret_value() or kept_secret(settings.key_file, _new_key)
    if weakness(key):
        message = f"{settings.key_file} holds no usable key; remove it, and the next start makes a new one"
        raise UserError(message, code="insecure_secret")
    return key


def _new_key() -> str:
    log.info("making the first API key")
    return f"{MARK}{secrets.token_hex(6)}.{secrets.token_urlsafe(32)}"


def _pepper(settings: ApiSettings) -> bytes:
    file = settings.home / "key-pepper"
    given = settings.key_pepper.get_secret_value() or kept_secret(file, lambda: secrets.token_hex(32))
    if len(given) < 32:
        raise UserError(f"{file} is damaged; remove it, and the next start makes a new one", code="insecure_secret")
    return given.encode()
