"""Pages of studies, whose they are, and the facts of their cells."""

from lcl_core.db import runs
from lcl_core.db import studies as db_studies
from lcl_core.db.models import Metric
from lcl_core.studies.results import curve_metrics, training_curves


def test_cells_come_with_what_their_runs_found(studies, database):
    study_id = studies.make()
    studies.finish(study_id)
    with database.reading() as session:
        cells = db_studies.study_cells(session, study_id)
    assert [(cell.number, cell.labels["loss"], cell.seed, cell.state()) for cell in cells] == [
        (0, "both", 0, "succeeded"),
        (1, "contrastive", 0, "succeeded"),
        (2, "both", 1, "succeeded"),
        (3, "contrastive", 1, "succeeded"),
    ]
    assert cells[0].evaluation is not None
    assert cells[0].evaluation.result["rows"][0]["value"] == 0.5
    assert (cells[0].run.result["encoder"]["seconds"], cells[0].run.spec["steps"]) == (1.0, 10)


def test_standings_of_many_are_counted_together(studies, database):
    running, done = studies.make(), studies.make(studies.spec(seeds=[5]))
    studies.finish(done)
    studies.end(studies.cells(running)[0].run_id)
    with database.reading() as session:
        page = db_studies.list_studies(session).items
        found = {
            study_id: (each.state, each.counts) for study_id, each in db_studies.study_statuses(session, page).items()
        }
    assert found == {
        running: ("running", {"running": 1, "queued": 3}),
        done: ("succeeded", {"succeeded": 2}),
    }


def test_thinned_lines_have_the_measurements_of_held_out_data_and_the_end(studies, database):
    run_id = studies.cells(studies.make(studies.spec(pretrain={"steps": 5000})))[0].run_id
    measured = range(500, 5001, 500)
    with database.session() as session:
        for step in range(10, 5001, 10):
            values = {"step": step, "loss": 1.0, **({"held_out.loss": 2.0} if step in measured else {})}
            session.add(Metric(run_id=run_id, phase="", step=step, values=values))
    with database.reading() as session:
        lines = runs.thinned_metrics(session, [run_id])
        cells = db_studies.study_cells(session, db_studies.list_studies(session).items[0].id)
    assert len(lines[run_id]) <= 2 * 200 + 1
    assert curve_metrics(lines) == ["loss", "held_out.loss"]
    curve, *_ = training_curves(cells, lines, "held_out.loss")
    assert [step for step, *_ in curve["points"]] == list(measured)
    loss, *_ = training_curves(cells, lines, "loss")
    assert (loss["points"][0][0], loss["points"][-1][0]) == (10, 5000)
