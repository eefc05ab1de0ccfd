"""What a run would take, over REST and on the command line."""

import json

import httpx
import pytest

from lcl_core.db import runs
from lcl_core.db.workers import WorkerIdentity, deregister, record_heartbeat

SPEC = {"preset": "sample"}
SEEN = {"images_seen": 64_000, "tokens_seen": 1_600_000, "documents_seen": 58_000}
COUNTS = {"steps": 500, **SEEN, "flops": 1e14, "seconds": 200.0}


def estimate(http, kind="pretrain", **body):
    return http.post(f"/v1/specs/{kind}/estimate", json={"spec": SPEC, **body})


@pytest.fixture(scope="module")
def measured(live_service):
    """A run that trained 500 steps in 200 seconds; its owner is the admin of the service."""
    run_id = live_service.finished(name="measured")
    with live_service.context.database.session() as session:
        run = runs.get_run(session, run_id)
        run.state, run.result = "succeeded", {"encoder": COUNTS, "final": {"memory_gib": 1.5}}
        run.ran_seconds = 210.0
    return run_id


def test_without_runs_an_estimate_says_that_it_is_a_guess(http, live_service):
    before = http.get("/v1/runs").json()["items"]
    found = estimate(http).json()
    assert (found["certainty"], found["device"], found["runs"]) == ("assumed", "cpu", [])
    assert found["seconds"]["low"] < found["seconds"]["expected"] < found["seconds"]["high"]
    assert found["parameters"] == 6_411_265
    assert found["checkpoint_bytes"] == 12 * found["parameters"]
    assert found["flops"] == pytest.approx(500 * found["flops_per_step"])
    assert found["samples"]["images"] == pytest.approx(500 * 128)
    assert "assumed" in found["basis"][0]
    assert http.get("/v1/runs").json()["items"] == before, "nothing is queued"
    with live_service.http("viewer") as viewer:
        assert estimate(viewer).status_code == 200


def test_a_run_that_was_tells_time_and_memory(http, measured):
    found = estimate(http).json()
    assert (found["certainty"], found["runs"]) == ("measured", [measured])
    assert found["seconds"]["expected"] == pytest.approx(215)
    assert found["memory_bytes"]["expected"] == pytest.approx(1.5 * 2**30)
    assert measured in found["basis"][0]
    longer = estimate(http, spec={**SPEC, "steps": 5000}).json()
    assert longer["flops"] == pytest.approx(10 * found["flops"])
    assert longer["seconds"]["expected"] > 9 * found["seconds"]["expected"]


def test_another_owners_runs_teach_nobody_else(live_service, measured):
    with live_service.http("admin") as admin:
        key = admin.post("/v1/keys", json={"owner": "newcomer", "role": "submitter"}).json()["key"]
    with httpx.Client(base_url=live_service.url, headers={"authorization": f"Bearer {key}"}) as newcomer:
        answer = estimate(newcomer)
    assert answer.json()["certainty"] == "assumed"
    assert measured not in answer.text


def test_a_gpu_is_taken_when_a_worker_has_one_or_it_is_asked_for(http, live_service):
    assert estimate(http, resource="gpu").json()["device"] == "gpu"
    with live_service.context.database.session() as session:
        record_heartbeat(session, WorkerIdentity("large", "host", 1, 1, ("NVIDIA H100",), ("cpu", "gpu")))
    assert estimate(http).json()["device"] == "gpu"
    assert estimate(http, resource="cpu").json()["device"] == "cpu"
    with live_service.context.database.session() as session:
        deregister(session, "large")


def test_what_is_not_estimated_says_so(http, refused):
    facts = refused(estimate(http, "evaluate"), 422, "invalid_value", "kind")
    assert "only pretrain" in facts["message"]
    refused(estimate(http, "study"), 422, "invalid_value", "kind")
    refused(estimate(http, "bake"), 404, "not_found", "kind")
    refused(estimate(http, surprise=1), 422, "invalid_value", "surprise")
    refused(estimate(http, resource="tpu"), 422, "invalid_value", "resource")


def test_on_the_command_line(lcl, live_service, measured):
    more = ("--preset", "sample", "--set", "steps=1000")
    status, out, _ = lcl("submit", "pretrain", *more, "--dry-run")
    assert status == 0
    assert "measured on runs with this setup" in out
    assert "6,411,265" in out
    assert measured in out
    status, out, _ = lcl("--json", "submit", "pretrain", *more, "--dry-run")
    assert json.loads(out) == live_service.admin.estimate("pretrain", {**SPEC, "steps": 1000})
    status, _, err = lcl("submit", "pretrain", "--set", "steps=0", "--dry-run")
    assert status == 1
    assert "steps" in err
    status, _, err = lcl("submit", "index", "--dry-run")
    assert status == 1
    assert "only pretrain" in err
