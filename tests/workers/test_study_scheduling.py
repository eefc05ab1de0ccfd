"""What studies need next is submitted at once, and one that is stuck stops no other."""

from __future__ import annotations

import threading

from structlog.testing import capture_logs

from lcl_core.db import queue, runs, studies
from workers.maintenance import schedule_studies
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


def test_a_study_that_is_not_understood_any_more_stops_no_other(database, study, run_of):
    stuck, fine = study(), study(seeds=[1])
    with database.session() as session:
        row = studies.get_study(session, stuck)
        row.spec = {**row.spec, "nonsense": 1}
        for study_id in (stuck, fine):
            run = runs.get_run(session, studies.study_cells(session, study_id)[0].run.id)
            run.state, run.encoder_id = "succeeded", "enc_1"
    with capture_logs() as logs:
        (queued,) = schedule_studies(database)
        assert schedule_studies(database) == []
    assert run_of(queued).study_id == fine
    assert [(line["event"], line["study"]) for line in logs] == [("study_is_stuck", stuck)] * 2
    assert "nonsense" in logs[0]["error"]
