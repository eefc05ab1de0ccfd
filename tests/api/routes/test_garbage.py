"""An admin sees what lies there for nothing, and removes it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lcl_core.db.artifacts import home_id
from lcl_core.db.models import Garbage, new_id
from lcl_core.db.session import now


@pytest.fixture
def orphan(live_service: Any) -> Path:
    folder = Path(live_service.home) / "runs" / new_id("run")
    folder.mkdir(parents=True)
    (folder / "log.txt").write_bytes(b"x" * 321)
    return folder


def rows(found: dict[str, Any], orphan: Path) -> list[dict[str, Any]]:
    return [row for row in found["items"] if row["path"] == f"runs/{orphan.name}"]


def test_it_is_listed_and_goes_when_it_is_due(live_service: Any, orphan: Path, lcl: Any, eventually: Any) -> None:
    [row] = rows(live_service.admin.garbage(), orphan)
    assert (row["bytes"], row["seen_at"], row["due"]) == (321, None, False)
    status, out, _ = lcl("gc", "--dry-run")
    assert status == 0
    assert orphan.name in out
    assert "bytes could be freed" in out
    assert rows(live_service.admin.collect_garbage(), orphan) == [], "its grace has only begun"
    assert orphan.is_dir()
    noted = (home_id(live_service.home), f"runs/{orphan.name}")
    with live_service.context.database.session() as session:
        session.get_one(Garbage, noted).seen_at = now(session) - timedelta(days=2)
    [row] = rows(live_service.admin.garbage(), orphan)
    assert row["due"]
    status, out, _ = lcl("gc")
    assert status == 0
    assert orphan.name in out
    eventually(lambda: not orphan.exists(), "the removal")
    assert live_service.admin.audit(action="garbage.collect")["items"]


@pytest.mark.parametrize("role", ["viewer", "submitter"])
def test_it_is_for_admins(live_service: Any, refused: Any, role: str) -> None:
    with live_service.http(role) as http:
        refused(http.get("/v1/garbage"), 403, "forbidden")
        refused(http.post("/v1/garbage/collect"), 403, "forbidden")
