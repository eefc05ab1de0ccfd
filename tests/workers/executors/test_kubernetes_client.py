"""Requests that are repeated, and a token that is renewed."""

from __future__ import annotations

import pytest

from lcl_core.common.errors import UserError
from tests.workers.executors.kubernetes_cluster import JOBSETS, PODS, TOKEN, ApiServer, serve_http
from workers.executors.base import EngineUnreachable
from workers.executors.kubernetes_client import KubernetesClient, KubernetesError

LABELS = {"lcl/job": "one"}


@pytest.fixture
def api():
    return ApiServer()


@pytest.fixture
def client(api, tmp_path):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with serve_http(api) as address:
        client = KubernetesClient(address, tmp_path / "token")
        yield client
        client.close()


def pod(name, **labels):
    return {"metadata": {"name": name, "labels": labels or LABELS}, "status": {}}


@pytest.mark.parametrize("status", [0, 408, 429, 500, 503])
def test_a_request_is_repeated_while_the_server_is_busy(api, client, status):
    api.put(PODS, pod("a"))
    api.answers = [status, status]
    assert [each["metadata"]["name"] for each in client.list_items(PODS, "lcl/job=one")] == ["a"]
    assert len(api.requests) == 3


def test_a_refusal_is_final(api, client):
    api.answers = [422]
    with pytest.raises(KubernetesError, match=r"not now \(HTTP status 422\)"):
        client.request("POST", JOBSETS, {"metadata": {"name": "a"}})
    assert client.find(f"{JOBSETS}/a") is None
    api.answers = [403]
    with pytest.raises(KubernetesError, match="403"):
        client.find(f"{JOBSETS}/a")


def test_a_server_that_is_away_is_given_up_in_time(api, client):
    api.is_away = True
    with pytest.raises(EngineUnreachable, match=r"http://127\.0\.0\.1"):
        client.request("GET", PODS, seconds=0.3)
    assert len(api.requests) >= 2


def test_the_token_is_read_again_for_every_request(client, tmp_path):
    (tmp_path / "token").write_text("an old one")
    with pytest.raises(KubernetesError, match="401"):
        client.request("GET", PODS)
    (tmp_path / "token").write_text(TOKEN)
    client.request("GET", PODS)
    (tmp_path / "token").unlink()
    with pytest.raises(EngineUnreachable, match="cannot be read"):
        client.request("GET", PODS, seconds=0.1)


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_file_without_certificates_is_a_wrong_setting(tmp_path, content):
    file = tmp_path / "authority.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=r"authority\.pem has no certificates .*LCL_KUBERNETES_CA_FILE") as caught:
        KubernetesClient("https://127.0.0.1:6443", tmp_path / "token", file)
    assert caught.value.code == "bad_setting"
