"""A disk that is full or read-only is named, in answers and at /readyz, and does not keep questions from answers."""

import pytest

from api.core.settings import ApiSettings
from api.services.state import AppState

RUN = {"kind": "pretrain", "spec": {"preset": "sample"}, "name": "x" * 100}


@pytest.fixture
def crowded(small_disk, serve, house_of, monkeypatch):
    """A service whose home lies on a small disk; it keeps no result of its checks."""
    monkeypatch.setattr("api.routes.health.READINESS_SECONDS", 0.0)
    home = small_disk.path / "home"
    settings = ApiSettings(home=home)
    context = AppState(settings)
    with serve(settings) as url:
        live_service = house_of(url, home, context, (home / "key").read_text().strip())
        yield live_service
        live_service.admin.close()
    context.close()


def disk(live_service):
    with live_service.http(None) as anonymous:
        return anonymous.get("/readyz").json()["checks"]["disk"]


def test_a_full_disk_is_said_and_forgotten_when_there_is_room(crowded, small_disk, refused):
    assert disk(crowded) == {"ok": True, "detail": "takes files"}
    small_disk.fill()
    with crowded.http("submitter") as client:
        answers = [client.post("/v1/runs", json=RUN)]
        while answers[-1].status_code == 202 and len(answers) < 1000:  # what the database's log still had room for
            answers.append(client.post("/v1/runs", json=RUN))
        message = refused(answers[-1], 507, "disk_full")["message"]
        assert str(crowded.home) in message
        assert client.get("/v1/runs").status_code == 200, "what asks is answered"
        reported = disk(crowded)
        assert reported["ok"] is False
        assert f"no space left in {crowded.home}" in reported["detail"]
        small_disk.make_room()
        assert client.post("/v1/runs", json=RUN).status_code == 202
    assert disk(crowded)["ok"] is True
