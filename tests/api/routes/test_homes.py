"""An admin sees which homes still have files that the store lacks, and gives those of a lost one up."""

from __future__ import annotations

from typing import Any

import pytest

from lcl_core.db import complete_run, outbox

GONE, HERE = "e" * 32, "f" * 32


@pytest.fixture
def run_id(live_service: Any) -> str:
    """A run whose folder is on a machine that is gone; another machine has others."""
    run_id: str = live_service.finished(complete_run.RunSucceeded({"encoder": None}))
    with live_service.context.database.session() as session:
        outbox.enqueue_upload(session, f"runs/{run_id}", 1, GONE)
        outbox.enqueue_upload(session, "encoders/enc_1", 1, HERE)
        outbox.enqueue_upload(session, "encoders/enc_2", 1, HERE)
    return run_id


def test_a_home_is_declared_lost(live_service: Any, run_id: str, lcl: Any) -> None:
    assert [(each["home"], each["folders"]) for each in live_service.admin.homes()] == [(GONE, 1), (HERE, 2)]
    status, out, _ = lcl("homes", "list")
    assert status == 0
    assert all(word in out for word in (GONE, f"runs/{run_id}", HERE, "encoders/enc_1"))
    status, out, _ = lcl("homes", "lost", GONE, "--yes")
    assert (status, out.strip()) == (0, f"1 folders of {GONE} are given up")
    assert [each["home"] for each in live_service.admin.homes()] == [HERE]
    [entry] = live_service.admin.audit(action="homes.declare_lost")["items"]
    assert entry["object"] == GONE
    status, _, err = lcl("homes", "lost", GONE, "--yes")
    assert status != 0
    assert "lcl homes list" in err


@pytest.mark.parametrize("role", ["viewer", "submitter"])
def test_it_is_for_admins(live_service: Any, refused: Any, role: str) -> None:
    with live_service.http(role) as http:
        refused(http.get("/v1/homes"), 403, "forbidden")
        refused(http.post(f"/v1/homes/{GONE}/lost"), 403, "forbidden")
