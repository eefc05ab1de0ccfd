"""What comes next is submitted once, however many workers act, and whenever one of them dies."""

import threading
from collections import Counter

from lcl_core.db import studies as db_studies


def test_an_encoder_that_came_out_is_examined(studies):
    study_id = studies.make(studies.spec(evaluate={"splits": ["test_vendor"], "seed": 4}))
    assert studies.due() == []
    first, *others = studies.cells(study_id)
    studies.end(first.run_id)
    assert studies.due() == [study_id]
    (evaluation_id,) = studies.advance(study_id)
    (evaluation,) = studies.runs("evaluate")
    assert (evaluation.id, evaluation.study_id, evaluation.priority) == (evaluation_id, study_id, 0)
    encoder = first.run_id.replace("run_", "enc_")
    assert (evaluation.spec["encoder"], evaluation.spec["seed"]) == (encoder, 4)
    assert studies.cells(study_id)[0].evaluation_id == evaluation_id
    assert (studies.due(), studies.advance(study_id)) == ([], [])
    for cell in others:
        studies.end(cell.run_id, "failed")
    studies.end(evaluation_id)
    assert studies.due() == []
    assert studies.state(study_id) == "failed"


def test_racing_workers_submit_each_evaluation_once(studies):
    """Two studies share their pre-trainings, so even different studies must not double an evaluation."""
    first, second = studies.make(), studies.make(name="again")
    for cell in studies.cells(first):
        studies.end(cell.run_id)
    together = threading.Barrier(6)
    queued: list[str] = []

    def work(number):
        together.wait()
        for study_id in (first, second) if number % 2 else (second, first):
            queued.extend(studies.advance(study_id))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    evaluations = studies.runs("evaluate")
    assert Counter(run.spec["encoder"] for run in evaluations) == {
        cell.run_id.replace("run_", "enc_"): 1 for cell in studies.cells(first)
    }
    linked = [[cell.evaluation_id for cell in studies.cells(study_id)] for study_id in (first, second)]
    assert linked[0] == linked[1]
    assert set(linked[0]) == {run.id for run in evaluations} == set(queued)


def test_nothing_more_is_submitted_for_a_cancelled_study(studies):
    study_id = studies.make()
    studies.end(studies.cells(study_id)[0].run_id)
    studies.act(db_studies.cancel_study, study_id)
    assert (studies.due(), studies.advance(study_id)) == ([], [])
    assert studies.state(study_id) == "cancelled"
    assert studies.advance("study_gone") == []
