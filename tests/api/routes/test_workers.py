"""Workers with their devices: which run has which, and what is kept or serves inference."""

import pytest

from lcl_core.db import complete_run
from lcl_core.db.queue import claim_next
from lcl_core.db.workers import WorkerIdentity, deregister, expire_serving_leases, lease_for_serving, record_heartbeat

DEVICES = ("GPU-a", "GPU-b", "GPU-c")
OFFERS = ("cpu", "gpu")


@pytest.fixture
def worker(live_service):
    """A worker with three GPUs that is alive."""
    use = {"name": "NVIDIA L4", "utilization": 0.5, "memory_used": 2**30, "memory_total": 2**34}
    with live_service.context.database.session() as session:
        identity = WorkerIdentity("w-gpu", "host", 1, 3, ("NVIDIA L4",) * 3, OFFERS, DEVICES)
        record_heartbeat(session, identity, [{"id": "GPU-a", **use}])
    yield identity.id
    with live_service.context.database.session() as session:
        deregister(session, identity.id)


def test_each_device_names_the_run_that_has_it(live_service, http, worker, lcl):
    body = {"kind": "pretrain", "spec": {"preset": "sample"}, "gpus": 1, "priority": 100}
    first = http.post("/v1/runs", json=body).json()
    assert (first["resource"], first["gpus"], first["devices"]) == ("gpu", 1, [])
    with live_service.context.database.session() as session:
        claim = claim_next(session, worker, 30.0, OFFERS, devices=DEVICES)
        lease_for_serving(session, "GPU-c", 30.0)
    large = {**body, "spec": {"preset": "sample", "engine": {"processes": 2}}, "gpus": 2}
    waiting = http.post("/v1/runs", json=large).json()
    with live_service.context.database.session() as session:
        assert claim_next(session, worker, 30.0, ("gpu",), devices=DEVICES) is None
    assert http.get(f"/v1/runs/{first['id']}").json()["devices"] == ["GPU-a"]
    assert http.get(f"/v1/runs/{waiting['id']}").json()["obstacle"]["code"] == "devices_busy"
    (shown,) = [each for each in http.get("/v1/workers").json()["items"] if each["id"] == worker]
    assert [(gpu["id"], gpu["use"], gpu["run"]) for gpu in shown["gpus"]] == [
        ("GPU-a", "run", first["id"]),
        ("GPU-b", "free", None),
        ("GPU-c", "inference", None),
    ]
    assert (shown["gpus"][0]["memory_used"], shown["gpus"][1]["memory_used"]) == (2**30, None)
    _, out, _ = lcl("status")
    (line,) = [line for line in out.splitlines() if "GPU-a" in line]
    assert first["id"] in line
    assert "1 GiB of 16 GiB" in line
    live_service.settle(claim, complete_run.RunCancelled())
    http.post(f"/v1/runs/{waiting['id']}/cancel")
    with live_service.context.database.session() as session:
        lease_for_serving(session, "GPU-c", -1.0)
        expire_serving_leases(session)
