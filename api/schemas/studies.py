"""Studies: submission, trials, table, curves and comparisons."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.base import Line, RequestModel, request_example
from api.schemas.runs import RangeView


class StudySubmission(RequestModel):
    model_config = ConfigDict(json_schema_extra=request_example(spec={"preset": "loss_ablation", "seeds": [0]}))

    spec: dict[str, Any] = Field(description="as GET /v1/specs/study describes", examples=[{"preset": "table1"}])
    name: Line | None = Field(None, description="shown in lists, and the start of the names of its runs")


class StudyPlanView(BaseModel):
    """What a study would come to."""

    rows: int = Field(description="lines of the table, at first")
    seeds: int = Field(description="seeds of each row")
    cells: int = Field(description="pre-trainings, each followed by an evaluation")
    reused: int = Field(description="of them there already, and not run again")
    seconds: RangeView | None = Field(
        description="of all new pre-trainings, one after another; without evaluations; null: none, or not estimated"
    )
    certainty: Literal["measured", "scaled", "assumed"] | None = Field(description="of seconds, as of a run's estimate")


class StudyView(BaseModel):
    id: str = Field(description="id of the study")
    name: str | None = Field(description="as submitted")
    owner: str = Field(description="owner of the key that submitted it")
    state: str = Field(description="follows from the states of its runs")
    question: str = Field(description="what the study is to answer")
    counts: dict[str, int] = Field(description="cells by state")
    created_at: datetime = Field(description="when it was submitted")
    cancelled_at: datetime | None = Field(description="when it was cancelled")


class RefusedRunView(BaseModel):
    """A run of a study that was not resumed."""

    id: str = Field(description="id of the run")
    code: str = Field(description="of the error: timeout_reached")
    message: str = Field(description="why, and how to resume it by itself")


class StudyResumptionView(StudyView):
    not_resumed: list[RefusedRunView] = Field(description="runs that need a higher timeout_seconds")


class TrialRunView(BaseModel):
    """A run of a cell, in short."""

    id: str = Field(description="id of the run")
    state: str = Field(description="state of the run")
    progress: dict[str, Any] | None = Field(description="its last line of metrics")
    reason: dict[str, Any] | None = Field(description="why it failed")


class TrialView(BaseModel):
    number: int = Field(description="of the trial, from 0")
    labels: dict[str, str] = Field(description="its variant of each axis")
    parameters: dict[str, Any] = Field(description="values drawn by a random search")
    seed: int = Field(description="its seed")
    state: str = Field(description="state of its runs together")
    run: TrialRunView
    evaluation: TrialRunView | None = Field(description="the evaluation of its encoder")


class StudyDetailView(StudyView):
    spec: dict[str, Any] = Field(description="with the preset and all defaults filled in")
    cells: list[TrialView] = Field(description="all trials")
    table: dict[str, Any] = Field(description="as it stands now; the same as table.json")
    notes: list[str] = Field(description="what a reader of the table must know")


class CurveView(BaseModel):
    labels: dict[str, str] = Field(description="its variant of each axis")
    points: list[list[float]] = Field(description="step, and mean, lowest and highest over the seeds")


class CurvesView(BaseModel):
    value: str = Field(description="the metric")
    values: list[str] = Field(description="other metrics that have curves")
    rows: list[CurveView] = Field(description="one curve per row of the table")


class RowComparisonView(BaseModel):
    """Row ``right`` minus row ``left``, metric by metric; None where it cannot be said."""

    left: dict[str, str] = Field(description="labels of the row")
    right: dict[str, str] = Field(description="labels of the row")
    seeds: dict[str, dict[str, Any] | None] = Field(description="paired over the seeds that both have")
    samples: dict[str, dict[str, Any] | None] = Field(description="paired over the samples of both")
    notes: list[str] = Field([], description="about datasets of which runs of the two rows read different contents")
