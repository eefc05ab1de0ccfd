"""Workers are told of runs behind the back of requests."""

import threading

import anyio

from api.core.settings import ApiSettings
from api.services.state import AppState


def test_nobody_waits_for_a_slow_broker_and_what_is_pending_is_sent(tmp_path, monkeypatch, eventually):
    state = AppState(ApiSettings(home=tmp_path))
    let_go, heard = threading.Event(), []

    def wake(run_id):
        assert let_go.wait(180)
        heard.append(run_id)

    monkeypatch.setattr(state.wakeup_producer, "wake", wake)
    runs = [f"run_{number}" for number in range(100)]
    anyio.run(state.wake, runs)
    let_go.set()
    eventually(lambda: heard == runs, "what is pending")
    state.close()
