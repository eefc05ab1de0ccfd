"""Client of a Kubernetes API server, whose requests are repeated.

Two kinds of objects are enough for an executor, so this uses httpx, which the service has already, and not the official
client. The token of the service account is read again for every request, since the kubelet renews it.
"""

from __future__ import annotations

import json
import os
import random
import ssl
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from lcl_core.common.errors import UserError
from workers.executors.base import EngineRefused, EngineUnreachable

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # of the pod in which this process runs
CONFLICT, NOT_FOUND = 409, 404
_REPEATED = {408, 429, 500, 502, 503, 504}
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 5.0  # seconds between two requests
_CONNECT_SECONDS, _ANSWER_SECONDS = 5.0, 15.0
Object = dict[str, Any]


def collection_path(version: str, namespace: str, kind: str) -> str:
    root = "api" if version == "v1" else "apis"
    return f"/{root}/{version}/namespaces/{namespace}/{kind}"


class KubernetesError(EngineRefused):
    """The API server has refused a request, and would refuse it again."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{message} (HTTP status {status})")
        self.status = status


class _FileToken(httpx.Auth):
    def __init__(self, path: Path) -> None:
        self._path = path

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        try:
            request.headers["Authorization"] = f"Bearer {self._path.read_text(encoding='ascii').strip()}"
        except OSError as error:
            raise httpx.ConnectError(f"the token of the service account cannot be read: {error}") from error
        yield request


class KubernetesClient:
    """Thread-safe.

    Args:
        url: of the API server; empty: that of the cluster in which this process runs.
        token_file: with the token; None: that of this pod's service account.
        ca_file: with the certificates that vouch for the API server; None: that of this pod's service account where
            there is one, else the system's.

    Raises: UserError ``executor_unreachable``, and ``bad_setting`` for ``ca_file``.
    """

    def __init__(self, url: str = "", token_file: Path | None = None, ca_file: Path | None = None) -> None:
        if not url:
            host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
            if not host or (ca_file is None and not (ACCOUNT / "ca.crt").is_file()):
                raise UserError(
                    "this worker is in no pod with a service account's token; set automountServiceAccountToken of its "
                    "pod, or LCL_KUBERNETES_URL and LCL_KUBERNETES_TOKEN_FILE",
                    code="executor_unreachable",
                )
            url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self.url = url
        self._http = httpx.Client(
            base_url=url,
            auth=_FileToken(token_file or ACCOUNT / "token"),
            verify=_tls_context(ca_file),
            trust_env=False,  # no proxy: the token is for the API server alone
            timeout=httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=8),
            headers={"Accept": "application/json", "User-Agent": "lcl-worker"},
        )

    def close(self) -> None:
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, str | int] | None = None,
        seconds: float = 30.0,
    ) -> Object:
        """Response to a request, which is repeated for so long while the server is busy or cannot be reached.

        Raises: KubernetesError, EngineUnreachable.
        """
        deadline, delay = time.monotonic() + seconds, _FIRST_DELAY
        while True:
            wait = delay
            if self._http.is_closed:
                raise EngineUnreachable(f"{self.url}: this worker is leaving")
            try:
                answer = self._http.request(method, path, json=body, params=params)
                if answer.is_success:
                    return _parse_object(answer.content)
                if answer.status_code not in _REPEATED:
                    raise KubernetesError(answer.status_code, _message(answer.content))
                problem = f"{_message(answer.content)} (HTTP status {answer.status_code})"
                wait = max(wait, _retry_after(answer))
            except (httpx.TransportError, ValueError) as error:
                problem = str(error) or type(error).__name__
            if time.monotonic() + wait > deadline:
                raise EngineUnreachable(f"{self.url}: {problem}")
            time.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311
            delay = min(2 * delay, _LONGEST_DELAY)

    def find(self, path: str, seconds: float = 30.0) -> Object | None:
        """One object; None: there is none. Raises: KubernetesError, EngineUnreachable."""
        try:
            return self.request("GET", path, seconds=seconds)
        except KubernetesError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def list_items(self, path: str, selector: str, seconds: float = 30.0) -> list[Object]:
        """The objects with these labels, as they are now. Raises: KubernetesError, EngineUnreachable."""
        found: list[Object] = self.request("GET", path, params={"labelSelector": selector}, seconds=seconds)["items"]
        return found


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Raises: UserError ``bad_setting``."""
    account = ACCOUNT / "ca.crt"
    chosen = ca_file or (account if account.is_file() else None)
    try:
        context = ssl.create_default_context(cafile=chosen)
    except OSError as error:  # as is ssl.SSLError
        raise UserError(
            f"{chosen} has no certificates that can be read ({error}); set LCL_KUBERNETES_CA_FILE to a PEM file with "
            "those of the authority of the API server's certificate",
            code="bad_setting",
        ) from error
    # Python 3.13 demands key identifiers of every certificate, which those of many clusters lack, as of Amazon EKS.
    # Chain, dates and host name are checked without that flag too.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _parse_object(text: bytes | str) -> Object:
    """Raises: ValueError."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("the answer is no object")
    return found


def _message(body: bytes) -> str:
    try:
        return str(_parse_object(body).get("message") or "no message")
    except ValueError:
        return body[:200].decode("utf-8", "replace") or "no message"


def _retry_after(answer: httpx.Response) -> float:
    value = answer.headers.get("Retry-After", "")
    return min(float(value), _LONGEST_DELAY) if value.isdecimal() else 0.0
