"""``lcl keys`` and ``lcl audit`` against a real service."""

import json


def test_a_keys_life(lcl, live_service):
    status, out, _ = lcl("keys", "create", "ada", "--role", "viewer", "--expires", "2199-01-01T00:00:00Z")
    assert status == 0
    key = out.strip()
    prefix = key.partition(".")[0]
    status, out, _ = lcl("keys", "list")
    assert (status, prefix in out, key.partition(".")[2] in out) == (0, True, False)
    assert lcl("keys", "revoke", prefix, "--yes") == (0, f"{prefix} is revoked\n", "")
    status, _, err = lcl("keys", "revoke", prefix, "--yes")
    assert (status, "there is no key" in err) == (1, True)
    rows = {row["prefix"] for row in json.loads(lcl("--json", "keys", "list")[1])["items"]}
    assert prefix not in rows


def test_the_key_that_asks(lcl, live_service):
    with live_service.http("viewer") as http:
        mine = http.get("/v1/keys/mine").json()
    assert (mine["owner"], mine["role"], mine["expires"]) == ("someone", "viewer", None)
    assert mine["prefix"] == live_service.keys["viewer"].partition(".")[0]
    assert "key" not in mine
    status, out, _ = lcl("keys", "list", "--mine")
    assert (status, "someone" in out, "admin" in out) == (0, True, True)


def test_who_did_what(lcl, live_service):
    run_id = live_service.submit()
    lcl("runs", "cancel", run_id)
    status, out, _ = lcl("audit", "--object", run_id)
    assert status == 0
    assert out.index("runs.cancel") < out.index("runs.submit"), "newest first"
    status, out, _ = lcl("audit", "--object", run_id, "--limit", "1")
    assert "runs.submit" not in out
    cursor = out.strip().rpartition("--cursor ")[2]
    found = json.loads(lcl("--json", "audit", "--object", run_id, "--cursor", cursor)[1])
    assert [row["action"] for row in found["items"]] == ["runs.submit"]
    assert "nothing was done yet" in lcl("audit", "--owner", "nobody")[1]
