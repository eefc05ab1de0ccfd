"""A small study in a migrated database, and runs that end as a test says."""

from typing import Any

import pytest
from sqlalchemy import select

from lcl_core.db import runs
from lcl_core.db import studies as db_studies
from lcl_core.db.models import EncoderRow, StudyCell
from lcl_core.db.session import now
from lcl_core.specs.parsing import parse_as
from lcl_core.specs.study import StudySpec

Json = dict[str, Any]
METRIC = {"name": "IR@5", "metric": "IR@5"}
LOSSES = {
    "name": "loss",
    "variants": [{"name": "both"}, {"name": "contrastive", "spec": {"objective.generation_weight": 0.0}}],
}


class Studies:
    """What tests ask of a database of studies."""

    def __init__(self, database):
        self.database = database

    def spec(self, **changes):
        given = {"axes": [LOSSES], "metrics": [METRIC], "pretrain": {"steps": 10}, "seeds": [0, 1], **changes}
        return parse_as(StudySpec, given)

    def make(self, spec=None, **facts):
        with self.database.session() as session:
            return db_studies.create_study(session, spec or self.spec(), **facts).id

    def cells(self, study_id):
        with self.database.reading() as session:
            query = select(StudyCell).where(StudyCell.study_id == study_id).order_by(StudyCell.number)
            return list(session.scalars(query))

    def runs(self, kind=None):
        with self.database.reading() as session:
            return list(reversed(runs.list_runs(session, kind=kind, limit=200).items))

    def end(self, run_id, state="succeeded", value=0.5):
        """As a worker would: a pre-training made an encoder, an evaluation found ``value``."""
        with self.database.session() as session:
            run = runs.get_run(session, run_id)
            run.state = state
            if run.kind == "pretrain":
                run.encoder_id = run_id.replace("run_", "enc_")
                run.result = {"encoder": {"seconds": 1.0}}
                facts = {
                    "path": f"encoders/{run.encoder_id}",
                    "hash": "h",
                    "identity": "h",
                    "owner": run.owner,
                    "info": {},
                }
                moment = now(session)
                session.merge(EncoderRow(id=run.encoder_id, name=run.encoder_id, created_at=moment, **facts))
            else:
                run.result = {"rows": [{"metric": "IR@5", "value": value}]}

    def advance(self, study_id):
        with self.database.session() as session:
            return db_studies.advance_study(session, study_id)

    def due(self):
        with self.database.reading() as session:
            return db_studies.due_studies(session)

    def state(self, study_id):
        with self.database.reading() as session:
            return db_studies.study_statuses(session, [db_studies.get_study(session, study_id)])[study_id].state

    def act(self, verb, study_id, *arguments):
        with self.database.session() as session:
            return verb(session, db_studies.get_study(session, study_id), *arguments)

    def finish(self, study_id):
        """All cells, pre-training and evaluation."""
        for cell in self.cells(study_id):
            self.end(cell.run_id)
        self.advance(study_id)
        for cell in self.cells(study_id):
            assert cell.evaluation_id is not None
            self.end(cell.evaluation_id)


@pytest.fixture
def studies(database):
    return Studies(database)
