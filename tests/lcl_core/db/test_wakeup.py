"""The wake-up message, and a broker that is not there."""

import base64
import json
import tempfile
from pathlib import Path

import pytest
import redis

from deploy.embedded_redis import EmbeddedBroker
from lcl_core.db.wakeup import QUEUE, WAKE, WakeupProducer


@pytest.fixture
def broker():
    with tempfile.TemporaryDirectory(prefix="lcl-") as folder, EmbeddedBroker(Path(folder)) as broker:
        yield broker


def messages(broker):
    """Task and arguments of every message in the queue, oldest first."""
    with redis.Redis(unix_socket_path=str(broker.socket)) as server:
        raw = [json.loads(item) for item in reversed(server.lrange(QUEUE, 0, -1))]
    assert {item["content-type"] for item in raw} <= {"application/json"}
    return [(item["headers"]["task"], json.loads(base64.b64decode(item["body"]))[0]) for item in raw]


def test_a_ring_is_a_small_json_message(broker):
    wakeup_producer = WakeupProducer(broker.url)
    assert wakeup_producer.wake("run_1")
    assert wakeup_producer.wake(None)
    assert messages(broker) == [(WAKE, ["run_1"]), (WAKE, [None])]
    wakeup_producer.close()


@pytest.mark.parametrize("problem", ["a replica", "full"])
def test_a_broker_that_accepts_no_writes_costs_nobody_anything(broker, problem):
    wakeup_producer = WakeupProducer(broker.url)
    with redis.Redis(unix_socket_path=str(broker.socket)) as server:
        if problem == "full":
            server.config_set("maxmemory", "1")
        else:
            server.replicaof("127.0.0.1", "1")
        assert wakeup_producer.wake("run_1") is wakeup_producer.wake(None) is False
        server.config_set("maxmemory", "0")
        server.replicaof("NO", "ONE")
    assert wakeup_producer.wake("run_2") is True
    assert messages(broker) == [(WAKE, ["run_2"])]
    wakeup_producer.close()
