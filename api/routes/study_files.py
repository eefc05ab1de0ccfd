"""What a study says: its table in three forms, its plots and curves, and two of its rows against each other."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from api.answers import sends
from api.deps import ContextDep, ReaderDep, Viewer
from api.errors import REFUSALS, Problem
from api.studies import compared_rows, study_table, title_of
from api.study_models import Curves, RowComparison
from lcl_core.runs import store
from lcl_core.studies.curves import curves as draw_curves
from lcl_core.studies.curves import values_of
from lcl_core.studies.formats import FORMATS
from lcl_core.studies.plots import KINDS, PLOTS, Material, draw

router = APIRouter(prefix="/v1/studies/{study_id}", tags=["studies"], responses=REFUSALS)
Head = Annotated[str | None, Query(max_length=60, description="head of a column; none: the first")]
Value = Annotated[str, Query(max_length=100, description="what of the metric lines is drawn")]
RowNumber = Annotated[int, Query(ge=0, lt=10_000)]
TABLES = sends(*(media_type.partition(";")[0] for _write, media_type in FORMATS.values()))


@router.get("/table.{kind}", response_class=Response, responses=TABLES)
def table(study_id: str, kind: Literal["json", "csv", "md"], _: Viewer, session: ReaderDep) -> Response:
    """The table as it stands."""
    study = store.get_study(session, study_id)
    write, media_type = FORMATS[kind]
    return Response(write(study_table(session, study), title_of(study)), media_type=media_type)


@router.get("/plots/{name}.{kind}", response_class=Response, responses=sends(*KINDS.values()))
def plot(
    study_id: str,
    name: str,
    kind: str,
    _: Viewer,
    session: ReaderDep,
    metric: Head = None,
    value: Value = "loss",
) -> Response:
    """``rows``, ``pareto``, ``scaling`` (of a metric) or ``curves`` (of the training), as svg or png."""
    study = store.get_study(session, study_id)
    found = study_table(session, study)
    heads = [column["name"] for column in found["metrics"]]
    if metric is not None and metric not in heads:
        raise Problem(404, "unknown_metric", f"there is no metric {metric!r}; choose from {', '.join(heads)}")
    cells = store.study_cells(session, study.id) if name == "curves" and name in PLOTS else []
    rows = draw_curves(cells, store.study_metrics(session, [cell.run.id for cell in cells]), value)
    picture = draw(name, Material(title_of(study), found, metric or heads[0], rows, value), kind)
    return Response(picture, media_type=KINDS[kind])


@router.get("/curves")
def curves(study_id: str, _: Viewer, session: ReaderDep, value: Value = "loss") -> Curves:
    """A figure of the training's metric lines over steps, a curve a row of the table."""
    study = store.get_study(session, study_id)
    cells = store.study_cells(session, study.id)
    lines = store.study_metrics(session, [cell.run.id for cell in cells])
    rows = draw_curves(cells, lines, value)
    return Curves.model_validate({"value": value, "values": values_of(lines), "rows": rows})


@router.get("/compare")
def compare(
    study_id: str, _: Viewer, context: ContextDep, session: ReaderDep, left: RowNumber, right: RowNumber
) -> RowComparison:
    """Two rows of the table by their numbers, counted from 0: paired tests over seeds and over samples."""
    study = store.get_study(session, study_id)
    found = compared_rows(session, study, left, right, context.records_of)
    return RowComparison.model_validate(found)
