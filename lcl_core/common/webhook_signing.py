"""Webhook URL allow-list and HMAC signatures of webhook messages."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from lcl_core.common.errors import UserError
from lcl_core.common.paths import load_or_create_secret

MAX_AGE_SECONDS = 300.0
_KEY_NAME = "webhook.key"
_PORTS = {"https": 443, "http": 80}


def check_url(url: str, hosts: Collection[str], *, https_only: bool = False) -> None:
    """Check that ``url`` is http(s) on one of ``hosts``: ``name`` or ``name:port``, with or without a protocol.

    A host without a port stands for its protocol's default. Names are compared as text; what a name resolves to is up
    to whoever listed it.

    Args:
        https_only: http is allowed only for hosts listed with ``http://``.
    Raises: UserError ``webhook_forbidden``.
    """
    try:
        parts = urlsplit(url)
        name, port = parts.hostname, parts.port
    except ValueError as error:
        raise _forbidden(f"{url!r} is no address ({error})") from error
    if parts.scheme not in _PORTS or not name or parts.username is not None or "\\" in url:
        raise _forbidden("an address begins with https:// or http:// and a host, without a name or password before it")
    allowed = {host.lower().rstrip("/") for host in hosts}
    standard = port in (None, _PORTS[parts.scheme])
    names = {f"{name}:{port or _PORTS[parts.scheme]}", *((name,) if standard else ())}
    if allowed & {f"{parts.scheme}://{each}" for each in names}:
        return
    if not allowed & names:
        raise _forbidden(f"the host {name!r} is not among those that LCL_WEBHOOK_HOSTS allows")
    if https_only and parts.scheme == "http":
        raise _forbidden(
            f"http sends messages about runs unencrypted: give an https address, or let LCL_WEBHOOK_HOSTS name "
            f"http://{parts.netloc}"
        )


def master_secret(configured: str, home: Path) -> bytes:
    """Master secret of the api: the setting, else a key file in ``home`` that the first caller makes."""
    if configured:
        return configured.encode()
    return load_or_create_secret(home / _KEY_NAME, lambda: os.urandom(32).hex()).encode()


def existing_master_secret(configured: str, home: Path) -> bytes:
    """Master secret of a worker: the setting, else the key file of the api.

    It makes no key: where the worker has a ``home`` of its own, receivers would reject what it signs.

    Raises: UserError ``webhook_key_missing``.
    """
    if not configured and not (home / _KEY_NAME).exists():
        raise UserError(
            f"the worker has no {home / _KEY_NAME}, from which the api derives the secrets of webhooks; copy that of "
            "the api's LCL_HOME there, or set the same LCL_WEBHOOK_SECRET for api and workers",
            code="webhook_key_missing",
        )
    return master_secret(configured, home)


def webhook_secret(master: bytes, webhook_id: str) -> str:
    """Secret of one webhook, derived and never stored in the database."""
    return hmac.new(master, webhook_id.encode(), hashlib.sha256).hexdigest()


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """``sha256=`` and HMAC-SHA256 in hex over ``TIMESTAMP.BODY``."""
    return "sha256=" + hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


def verify(secret: str, timestamp: str, received: str, body: bytes, clock: float | None = None) -> bool:
    """For receivers: whether the signature is valid and at most five minutes old."""
    if not timestamp.isdigit() or abs((time.time() if clock is None else clock) - int(timestamp)) > MAX_AGE_SECONDS:
        return False
    return hmac.compare_digest(signature(secret, int(timestamp), body), received)


def _forbidden(message: str) -> UserError:
    return UserError(message, code="webhook_forbidden", field="url")
