"""The demonstration ends with the reason when a run fails or a part dies; tests/e2e walks the whole of it."""

import pytest

from deploy import local
from lcl_core.common.errors import UserError


class FailingService:
    """Answers as the client does; every run fails."""

    def submit(self, kind, *_):
        reason = {"code": "bad_data", "message": "interleaved.jsonl:7: no images"}
        return {"id": kind, "state": "failed", "progress": None, "reason": reason}

    def logs(self, run_id):
        return {"text": "\n".join(f"line {i}" for i in range(100))}


def test_a_failed_run_ends_it_with_the_reason_and_the_log():
    with pytest.raises(UserError, match=r"pretrain run pretrain failed: interleaved\.jsonl:7: no images") as caught:
        local.run_demo(FailingService(), check=lambda: None)
    assert "line 99" in str(caught.value)
    assert "line 50" not in str(caught.value)


def test_a_dead_part_ends_it():
    class Queued(FailingService):
        def submit(self, kind, *_):
            return {"id": kind, "state": "queued", "progress": None}

    def check():
        raise UserError("worker was killed by SIGKILL", code="process_died")

    with pytest.raises(UserError, match="worker was killed"):
        local.follow_run(Queued(), check, "pretrain", {})
