"""What a study says: its table in three forms, its plots and curves, and two of its rows against each other."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from api.core.errors import ERROR_RESPONSES, Problem
from api.core.responses import documented_responses
from api.deps import ReadSessionDep, StateDep, Viewer
from api.schemas.studies import CurvesView, RowComparisonView
from api.services.studies import compare_study_rows, study_table, study_title
from lcl_core.db import studies
from lcl_core.studies.plots import KINDS, PLOTS, PlotData, draw_plot
from lcl_core.studies.results import curve_metrics
from lcl_core.studies.results import training_curves as draw_curves
from lcl_core.studies.table import FORMATS

router = APIRouter(prefix="/v1/studies/{study_id}", tags=["studies"], responses=ERROR_RESPONSES)
ColumnName = Annotated[str | None, Query(max_length=60, description="head of a column; none: the first")]
MetricName = Annotated[str, Query(max_length=100, description="what of the metric lines is drawn")]
RowNumber = Annotated[int, Query(ge=0, lt=10_000)]
TABLE_RESPONSES = documented_responses(*(media_type.partition(";")[0] for _write, media_type in FORMATS.values()))


@router.get("/table.{kind}", response_class=Response, responses=TABLE_RESPONSES)
def table(study_id: str, kind: Literal["json", "csv", "md"], _: Viewer, session: ReadSessionDep) -> Response:
    """The table as it stands."""
    study = studies.get_study(session, study_id)
    write, media_type = FORMATS[kind]
    return Response(write(study_table(session, study), study_title(study)), media_type=media_type)


@router.get("/plots/{name}.{kind}", response_class=Response, responses=documented_responses(*KINDS.values()))
def plot(
    study_id: str,
    name: str,
    kind: str,
    _: Viewer,
    session: ReadSessionDep,
    metric: ColumnName = None,
    value: MetricName = "loss",
) -> Response:
    """``rows``, ``pareto``, ``scaling`` (of a metric) or ``curves`` (of the training), as svg or png."""
    study = studies.get_study(session, study_id)
    found = study_table(session, study)
    heads = [column["name"] for column in found["metrics"]]
    if metric is not None and metric not in heads:
        raise Problem(404, "unknown_metric", f"there is no metric {metric!r}; choose from {', '.join(heads)}")
    cells = studies.study_cells(session, study.id) if name == "curves" and name in PLOTS else []
    rows = draw_curves(cells, studies.study_metrics(session, [cell.run.id for cell in cells]), value)
    picture = draw_plot(name, PlotData(study_title(study), found, metric or heads[0], rows, value), kind)
    return Response(picture, media_type=KINDS[kind])


@router.get("/curves")
def curves(study_id: str, _: Viewer, session: ReadSessionDep, value: MetricName = "loss") -> CurvesView:
    """A figure of the training's metric lines over steps, a curve a row of the table."""
    study = studies.get_study(session, study_id)
    cells = studies.study_cells(session, study.id)
    lines = studies.study_metrics(session, [cell.run.id for cell in cells])
    rows = draw_curves(cells, lines, value)
    return CurvesView.model_validate({"value": value, "values": curve_metrics(lines), "rows": rows})


@router.get("/compare")
def compare(
    study_id: str, _: Viewer, context: StateDep, session: ReadSessionDep, left: RowNumber, right: RowNumber
) -> RowComparisonView:
    """Two rows of the table by their numbers, counted from 0: paired tests over seeds and over samples."""
    study = studies.get_study(session, study_id)
    found = compare_study_rows(session, study, left, right, context.evaluation_records)
    return RowComparisonView.model_validate(found)
