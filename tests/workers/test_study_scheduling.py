"""What studies need next is submitted at once, and one that is stuck stops no other."""

from __future__ import annotations

import threading

from lcl_core.db import queue
from workers.supervisor import Supervisor


def test_an_evaluation_goes_before_the_studys_next_pre_training(database, settings, modules, study):
    study(seeds=[0, 1])
    supervisor = Supervisor(database, settings, modules)
    kinds = []
    while True:
        with database.session() as session:
            claim = queue.claim_next(session, "in-process")
        if claim is None:
            break
        kinds.append(claim.kind)
        supervisor.run(claim, threading.Event())
    assert kinds == ["pretrain", "evaluate", "pretrain", "evaluate"]
