"""Runs of several nodes are refused while only workers without an engine are alive."""

import pytest

from lcl_core.common.errors import UserError
from lcl_core.db.workers import WorkerIdentity, engine_device, record_heartbeat


def test_several_nodes_need_an_engine(database, queue):
    several = {"engine": {"nodes": 2}}
    queue(spec=several)  # no worker is alive yet, which might have one
    with database.session() as session:
        record_heartbeat(session, WorkerIdentity("local", "host", 1, 1, ("cpu",)))
    with pytest.raises(UserError, match="LCL_EXECUTOR=ray") as caught:
        queue(spec=several)
    assert (caught.value.code, caught.value.field) == ("no_engine", "engine.nodes")
    with database.session() as session:
        record_heartbeat(session, WorkerIdentity("ray", "host", 1, 1, (engine_device("ray"),)))
    queue(spec=several)
