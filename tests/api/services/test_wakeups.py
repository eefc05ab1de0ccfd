"""Workers are told of runs behind the back of requests."""

import threading

import anyio

from api.services.runs import WakeupSender
from lcl_core.db.wakeup import WakeupProducer


class Listening(WakeupProducer):
    """Notes who rang; takes no message while ``let_go`` is not set."""

    def __init__(self):
        super().__init__("redis://127.0.0.1:1")
        self.heard = []
        self.let_go = threading.Event()

    def wake(self, run_id):
        assert self.let_go.wait(180)
        self.heard.append(run_id)
        return True


def test_nobody_waits_for_a_slow_broker_and_what_is_pending_is_sent(eventually):
    producer = Listening()
    sender = WakeupSender(producer)
    for number in range(1000):
        anyio.run(sender.wake, [f"run_{number}"])
    producer.let_go.set()
    eventually(lambda: producer.heard[:2] == ["run_0", "run_1"] and 64 <= len(producer.heard) <= 66, "what is pending")
    sender.close()


def test_one_that_never_rang_closes_at_once():
    WakeupSender(Listening()).close()
