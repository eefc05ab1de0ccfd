"""Requests that are repeated, a token that is renewed, and watches that go on after what ends them."""

from __future__ import annotations

import functools
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lcl_core.common.errors import UserError
from tests.workers.executors.kubernetes_cluster import JOBSETS, PODS, TOKEN, ApiServer, serve_http
from workers.executors import kubernetes_client
from workers.executors.kubernetes_client import KubernetesClient, KubernetesError, KubernetesUnreachable, ObjectWatch

Eventually = Callable[..., None]
LABELS = {"lcl/job": "one"}


@pytest.fixture
def api() -> ApiServer:
    return ApiServer()


@pytest.fixture
def client(api: ApiServer, tmp_path: Path) -> Iterator[KubernetesClient]:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with serve_http(api) as address:
        client = KubernetesClient(address, tmp_path / "token")
        yield client
        client.close()


def pod(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels or LABELS}, "status": {}}


@pytest.mark.parametrize("status", [0, 408, 429, 500, 503])
def test_a_request_is_repeated_while_the_server_is_busy(api: ApiServer, client: KubernetesClient, status: int) -> None:
    api.put(PODS, pod("a"))
    api.answers = [status, status]
    assert [each["metadata"]["name"] for each in client.list_items(PODS, "lcl/job=one")] == ["a"]
    assert len(api.requests) == 3


def test_a_refusal_is_final(api: ApiServer, client: KubernetesClient) -> None:
    api.answers = [422]
    with pytest.raises(KubernetesError, match=r"not now \(HTTP status 422\)"):
        client.request("POST", JOBSETS, {"metadata": {"name": "a"}})
    assert client.find(f"{JOBSETS}/a") is None
    api.answers = [403]
    with pytest.raises(KubernetesError, match="403"):
        client.find(f"{JOBSETS}/a")


def test_a_server_that_is_away_is_given_up_in_time(api: ApiServer, client: KubernetesClient) -> None:
    api.is_away = True
    with pytest.raises(KubernetesUnreachable, match=r"http://127\.0\.0\.1"):
        client.request("GET", PODS, seconds=0.3)
    assert len(api.requests) >= 2


def test_the_token_is_read_again_for_every_request(client: KubernetesClient, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("an old one")
    with pytest.raises(KubernetesError, match="401"):
        client.request("GET", PODS)
    (tmp_path / "token").write_text(TOKEN)
    client.request("GET", PODS)
    (tmp_path / "token").unlink()
    with pytest.raises(KubernetesUnreachable, match="cannot be read"):
        client.request("GET", PODS, seconds=0.1)


def test_a_watch_misses_nothing_for_long(api: ApiServer, client: KubernetesClient, eventually: Eventually) -> None:
    """Whatever ends it: a connection that is lost, a server that is away, a history that was forgotten."""
    seen: dict[str, str] = {}
    lists = threading.Semaphore(0)

    def report(kind: str, found: dict[str, Any] | None) -> None:
        if found is None:
            lists.release()
        else:
            seen[found["metadata"]["name"]] = kind

    api.put(PODS, pod("before"))
    api.put(PODS, pod("of another", lcl="no"))
    watch = ObjectWatch(client, PODS, "lcl/job=one", report)
    watch.start()
    eventually(lambda: seen == {"before": "ADDED"}, "the list")
    api.put(PODS, pod("after"))
    api.change(PODS, "before", status={"phase": "Running"})
    eventually(lambda: seen == {"before": "MODIFIED", "after": "ADDED"}, "the events")
    api.drop_watches()
    api.remove(PODS, "after")
    eventually(lambda: seen["after"] == "DELETED", "an event after a lost connection")
    api.is_away = True
    api.drop_watches()
    eventually(lambda: len(api.requests) > 6, "attempts")
    api.put(PODS, pod("while it was away"))
    api.compact()
    api.is_away = False
    eventually(lambda: "while it was away" in seen, "a new list")
    assert lists.acquire(timeout=60)
    assert lists.acquire(timeout=60), "what happened meanwhile may have been missed"
    watch.stop()


def test_a_watch_that_is_refused_begins_anew(api: ApiServer, client: KubernetesClient, eventually: Eventually) -> None:
    seen = []
    watch = ObjectWatch(client, PODS, "lcl/job=one", lambda kind, found: seen.append(kind))
    api.answers = [200, 403, 200, 410]
    watch.start()
    eventually(lambda: seen.count("LISTED") == 3, "three lists")
    watch.stop()


def authority_without_key_identifiers(folder: Path) -> ssl.SSLContext:
    """Write its ``ca.crt``, as Amazon EKS has it. Returns: what a server at 127.0.0.1 of that authority speaks."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("kubernetes", "kube-apiserver")]
    extensions = (
        x509.BasicConstraints(ca=True, path_length=None),
        x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
    )
    for name, key, extension, file in zip(names, keys, extensions, ("ca.crt", "server.crt"), strict=True):
        certificate = (
            x509.CertificateBuilder(names[0], name, key.public_key(), x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - timedelta(days=1))
            .not_valid_after(datetime.now(UTC) + timedelta(days=1))
            .add_extension(extension, critical=file == "ca.crt")
            .sign(keys[0], hashes.SHA256())
        )
        (folder / file).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file = folder / "server.key"
    pem, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key_file.write_bytes(keys[1].private_bytes(serialization.Encoding.PEM, pem, plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", key_file)
    return context


@pytest.fixture
def cluster_ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """Address of an API server and the file with its authority, for a process whose Python is as strict as 3.13."""

    def strict(create: Callable[..., ssl.SSLContext], **options: Any) -> ssl.SSLContext:
        context = create(**options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", functools.partial(strict, ssl.create_default_context))
    (tmp_path / "token").write_text(TOKEN)
    with serve_http(ApiServer(), authority_without_key_identifiers(tmp_path)) as address:
        yield address, tmp_path / "ca.crt"


def listed(url: str, token_file: Path, ca_file: Path | None = None) -> list[Any]:
    client = KubernetesClient(url, token_file, ca_file)
    try:
        return client.list_items(PODS, "lcl/job=one", seconds=0.1)
    finally:
        client.close()


def test_an_authority_without_key_identifiers_is_believed_and_no_other(
    cluster_ca: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, ca_file = cluster_ca
    assert listed(url, tmp_path / "token", ca_file) == []
    with pytest.raises(KubernetesUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
        listed(url, tmp_path / "token")
    with pytest.raises(KubernetesUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
        listed(url.replace("127.0.0.1", "localhost"), tmp_path / "token", ca_file)
    monkeypatch.setattr(kubernetes_client, "ACCOUNT", tmp_path)
    assert listed(url, tmp_path / "token") == [], "the service account has the authority of its cluster"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", url.rpartition(":")[2])
    assert listed("", tmp_path / "token") == []


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_file_without_certificates_is_a_wrong_setting(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "authority.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=r"authority\.pem has no certificates .*LCL_KUBERNETES_CA_FILE") as caught:
        KubernetesClient("https://127.0.0.1:6443", tmp_path / "token", file)
    assert caught.value.code == "bad_setting"
