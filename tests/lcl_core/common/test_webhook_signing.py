"""Where messages may go, and how a receiver knows that they are ours."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.settings import Settings
from lcl_core.common.webhook_signing import (
    check_url,
    existing_master_secret,
    master_secret,
    signature,
    verify,
    webhook_secret,
)

HOSTS = ["hooks.example.org", "chat.internal:8443", "127.0.0.1:9000"]


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.org/lcl?team=1",
        "http://hooks.example.org",
        "https://HOOKS.example.org:443/x",
        "https://chat.internal:8443/a",
        "http://127.0.0.1:9000/",
    ],
)
def test_a_host_of_the_list_may_be_reported(url: str) -> None:
    check_url(url, HOSTS)


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/",
        "https://hooks.example.org:8443/",
        "https://chat.internal/",
        "https://hooks.example.org.evil.example/",
        "https://evil.example/hooks.example.org",
        "https://hooks.example.org@evil.example/",
        "https://user:word@hooks.example.org/",
        "https://evil.example\\@hooks.example.org/",
        "https://evil.example#@hooks.example.org/",
        "http://127.0.0.1/",
        "http://127.0.0.1:9001/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]:9000/",
        "http://2130706433:9000/",
        "file:///etc/passwd",
        "gopher://hooks.example.org/",
        "//hooks.example.org/",
        "hooks.example.org",
        "https://",
        "https://hooks.example.org:99999/",
        "https://[hooks.example.org/",
    ],
)
def test_nothing_else_may(url: str) -> None:
    with pytest.raises(UserError) as caught:
        check_url(url, HOSTS)
    assert (caught.value.code, caught.value.field) == ("webhook_forbidden", "url")


@pytest.mark.parametrize("url", ["http://hooks.example.org/", "http://127.0.0.1:9000/", "http://chat.internal:8443/"])
def test_a_team_sends_over_https_unless_the_list_says_http(url: str) -> None:
    with pytest.raises(UserError, match="unencrypted") as caught:
        check_url(url, HOSTS, https_only=True)
    assert caught.value.code == "webhook_forbidden"
    check_url(url, [*HOSTS, url], https_only=True)
    check_url(url.replace("http:", "https:"), HOSTS, https_only=True)
    with pytest.raises(UserError, match="not among"):
        check_url("http://other.example.org", [url], https_only=True)


def test_a_protocol_in_the_list_holds_for_that_protocol_alone() -> None:
    check_url("https://hooks.example.org:443/a", ["HTTPS://hooks.example.org"])
    for url in ("http://hooks.example.org/", "https://hooks.example.org:8443/"):
        with pytest.raises(UserError, match="not among"):
            check_url(url, ["https://hooks.example.org"])


def test_without_a_list_nobody_is_reported() -> None:
    with pytest.raises(UserError, match="LCL_WEBHOOK_HOSTS"):
        check_url("https://hooks.example.org/", Settings().webhook_hosts)


def test_the_list_is_parted_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCL_WEBHOOK_HOSTS", "hooks.example.org, chat.internal:8443,")
    assert Settings().webhook_hosts == HOSTS[:2]


def test_a_short_secret_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCL_WEBHOOK_SECRET", "sesame-open")
    with pytest.raises(ValueError, match="shorter than 24") as caught:
        Settings()
    assert "sesame" not in str(caught.value)


def test_a_signature_is_of_time_and_body_and_grows_old() -> None:
    body = '{"event": "run.succeeded", "name": "ü"}'.encode()
    given = signature("secret", 1000, body)
    assert given.startswith("sha256=")
    assert verify("secret", "1000", given, body, clock=1200.0)
    assert not verify("secret", "1000", given, body, clock=1301.0)
    assert not verify("secret", "1001", given, body, clock=1000.0)
    assert not verify("other", "1000", given, body, clock=1000.0)
    assert not verify("secret", "1000", given, body + b" ", clock=1000.0)
    assert not verify("secret", "soon", given, body)


def test_the_key_file_is_made_once_by_whoever_comes_first(tmp_path: Path) -> None:
    found: list[bytes] = []
    together = threading.Barrier(4)

    def ask() -> None:
        together.wait()
        found.append(master_secret("", tmp_path))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found[0]) == 64
    assert [file.name for file in tmp_path.iterdir()] == ["webhook.key"]
    assert (tmp_path / "webhook.key").stat().st_mode & 0o077 == 0
    assert master_secret("configured", tmp_path) == b"configured"


def test_a_key_file_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "webhook.key").write_text("\n")
    with pytest.raises(UserError, match=r"webhook\.key is damaged; remove it") as caught:
        master_secret("", tmp_path)
    assert caught.value.code == "insecure_secret"


def test_each_webhook_has_a_secret_of_its_own() -> None:
    assert webhook_secret(b"m", "hook_1") != webhook_secret(b"m", "hook_2")
    assert webhook_secret(b"m", "hook_1") == webhook_secret(b"m", "hook_1") != webhook_secret(b"n", "hook_1")


def test_a_worker_signs_with_the_key_of_the_api_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="LCL_WEBHOOK_SECRET") as caught:
        existing_master_secret("", tmp_path)
    assert caught.value.code == "webhook_key_missing"
    assert list(tmp_path.iterdir()) == []
    assert existing_master_secret("configured", tmp_path) == b"configured"
    assert master_secret("", tmp_path) == existing_master_secret("", tmp_path)
