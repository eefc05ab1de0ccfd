"""Requests that are repeated, a token that is renewed, and watches that go on after what ends them."""

from __future__ import annotations

import threading

import pytest

from lcl_core.common.errors import UserError
from tests.workers.executors.kubernetes_cluster import JOBSETS, PODS, TOKEN, ApiServer, serve_http
from workers.executors.kubernetes_client import KubernetesClient, KubernetesError, KubernetesUnreachable, ObjectWatch

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
    with pytest.raises(KubernetesUnreachable, match=r"http://127\.0\.0\.1"):
        client.request("GET", PODS, seconds=0.3)
    assert len(api.requests) >= 2


def test_the_token_is_read_again_for_every_request(client, tmp_path):
    (tmp_path / "token").write_text("an old one")
    with pytest.raises(KubernetesError, match="401"):
        client.request("GET", PODS)
    (tmp_path / "token").write_text(TOKEN)
    client.request("GET", PODS)
    (tmp_path / "token").unlink()
    with pytest.raises(KubernetesUnreachable, match="cannot be read"):
        client.request("GET", PODS, seconds=0.1)


def test_a_watch_misses_nothing_for_long(api, client, eventually):
    """Whatever ends it: a connection that is lost, a server that is away, a history that was forgotten."""
    seen: dict[str, str] = {}
    lists = threading.Semaphore(0)

    def report(kind, found):
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


def test_a_watch_that_is_refused_begins_anew(api, client, eventually):
    seen = []
    watch = ObjectWatch(client, PODS, "lcl/job=one", lambda kind, found: seen.append(kind))
    api.answers = [200, 403, 200, 410]
    watch.start()
    eventually(lambda: seen.count("LISTED") == 3, "three lists")
    watch.stop()


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_file_without_certificates_is_a_wrong_setting(tmp_path, content):
    file = tmp_path / "authority.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=r"authority\.pem has no certificates .*LCL_KUBERNETES_CA_FILE") as caught:
        KubernetesClient("https://127.0.0.1:6443", tmp_path / "token", file)
    assert caught.value.code == "bad_setting"
