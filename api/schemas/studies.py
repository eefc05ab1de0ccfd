"""Studies: submission, trials, table, curves and comparisons."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from api.schemas.base import Line, RequestModel


class StudySubmission(RequestModel):
    spec: dict[str, Any] = Field(description="as GET /v1/specs/study describes", examples=[{"preset": "table1"}])
    name: Line | None = None


class StudyPlanView(BaseModel):
    """What a study would come to."""

    rows: int = Field(description="lines of the table, at first")
    seeds: int
    cells: int = Field(description="pre-trainings, each followed by an evaluation")
    reused: int = Field(description="of them there already, and not run again")


class StudyView(BaseModel):
    id: str
    name: str | None
    owner: str
    state: str = Field(description="follows from the states of its runs")
    question: str
    counts: dict[str, int] = Field(description="cells by state")
    created_at: datetime
    cancelled_at: datetime | None


class TrialRunView(BaseModel):
    """A run of a cell, in short."""

    id: str
    state: str
    progress: dict[str, Any] | None
    reason: dict[str, Any] | None
    continues: str | None = Field(None, description="the run from whose checkpoint it goes on")


class TrialView(BaseModel):
    number: int
    labels: dict[str, str]
    parameters: dict[str, Any]
    seed: int
    rung: int
    state: str
    run: TrialRunView
    evaluation: TrialRunView | None


class StudyDetailView(StudyView):
    spec: dict[str, Any]
    cells: list[TrialView]
    table: dict[str, Any] = Field(description="as it stands now; the same as table.json")
    notes: list[str]


class CurveView(BaseModel):
    labels: dict[str, str]
    rung: int | None
    points: list[list[float]] = Field(description="step, and mean, lowest and highest over the seeds")


class CurvesView(BaseModel):
    value: str
    values: list[str] = Field(description="other metrics that have curves")
    rows: list[CurveView]


class RowComparisonView(BaseModel):
    """Row ``right`` minus row ``left``, metric by metric; None where it cannot be said."""

    left: dict[str, str]
    right: dict[str, str]
    seeds: dict[str, dict[str, Any] | None] = Field(description="paired over the seeds that both have")
    samples: dict[str, dict[str, Any] | None] = Field(description="paired over the samples of both")
