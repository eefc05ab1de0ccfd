"""The form that starts a study: a built-in one, its seeds and steps, everything else as JSON, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from api.client import ApiError, Client
from lcl_core.specs import PretrainSpec, UserError, parse_as, presets
from ui.common import BUSY, QUIET
from ui.html import esc
from ui.spec_fields import from_json, get_at, put_at, to_json
from ui.tabs.run_form import bad_verdict

FIRST = "loss_ablation"


class StudyForm:
    """Fields and editor stay in step; the service counts the runs before any is queued."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def build(self) -> None:
        spec = starting_study(FIRST)
        with gr.Column(elem_classes="lcl-form"):
            with gr.Row():
                names = sorted(presets("study"))
                self.preset = gr.Dropdown(names, value=FIRST, label="Built-in study", min_width=180)
                self.name = gr.Textbox("", label="Name", placeholder=FIRST, max_lines=1, min_width=160)
                self.seeds = gr.Textbox(_seeds(spec), label="Seeds", max_lines=1, min_width=120)
                self.steps = gr.Number(_steps(spec), label="Steps of each", min_width=120)
            self.question = gr.HTML(_question(spec), apply_default_css=False)
            with gr.Accordion("Full spec (JSON)", open=False):
                self.editor = gr.Code(
                    to_json(spec), language="json", label="Study", interactive=True, lines=12, max_lines=22, buttons=[]
                )
            with gr.Row(elem_classes="lcl-submit"):
                self.verdict = gr.HTML(apply_default_css=False, elem_id="verdict-study")
                self.submit = gr.Button("Start study", variant="primary", elem_id="submit-study")

    def wire(self, tab: gr.Tab) -> None:
        """Events inside the form; what follows a submission is wired by the tab."""
        shown = [self.editor, self.question, self.seeds, self.steps, self.name, self.verdict]
        self.preset.input(self.take_preset, self.preset, shown, **BUSY)
        # One event for both fields: two would overtake each other, and the older answer could be written last.
        gr.on(
            [self.seeds.input, self.steps.input],
            self.write_fields, [self.editor, self.seeds, self.steps], [self.editor, self.verdict],
            trigger_mode="always_last", **QUIET,
        )  # fmt: skip
        self.editor.input(
            self.read_editor, self.editor, [self.question, self.seeds, self.steps, self.verdict],
            trigger_mode="always_last", **QUIET,
        )  # fmt: skip
        tab.select(self.judge, self.editor, self.verdict, **QUIET)

    def take_preset(self, preset: str) -> tuple[Any, ...]:
        spec = starting_study(preset)
        text = to_json(spec)
        named = gr.Textbox(placeholder=preset)
        return text, _question(spec), _seeds(spec), _steps_field(spec), named, self.judge(text)

    def write_fields(self, text: str, seeds: str, steps: float | None) -> tuple[Any, str]:
        """Both fields into the editor, so that quick edits of one and the other do not undo each other.

        Seeds that are no numbers are refused by the service in its words.
        """
        try:
            text = to_json(_written(from_json(text), seeds, steps))
        except UserError:
            return gr.skip(), self.judge(text)
        return text, self.judge(text)

    def read_editor(self, text: str) -> tuple[Any, ...]:
        """Fields follow the editor while it holds JSON at all."""
        try:
            spec = from_json(text)
        except UserError:
            return *[gr.skip()] * 3, self.judge(text)
        return _question(spec), _seeds(spec), _steps_field(spec), self.judge(text)

    def judge(self, text: str) -> str:
        """What the study comes to, or what is wrong with it."""
        try:
            return f'<p class="lcl-verdict lcl-verdict--good" role="status">{esc(self._count(from_json(text)))}</p>'
        except (UserError, ApiError) as error:
            return bad_verdict(error.field, error.message)

    def send(
        self, text: str, name: str, preset: str, seeds: str, steps: float | None
    ) -> tuple[str, str | None]:
        """Submit. Returns: the verdict, and the new study's id or None when it was refused."""
        try:
            spec = from_json(text)
            if _written(spec, seeds, steps) != spec:
                return bad_verdict(None, "fields and JSON were not yet in step; look again and start."), None
            study = self.client.submit_study(spec, name.strip() or preset)
        except (UserError, ApiError) as error:
            return bad_verdict(error.field, error.message), None
        words = f"Submitted as {study['id']}. Its table fills below."
        return f'<p class="lcl-verdict lcl-verdict--good" role="status">{esc(words)}</p>', study["id"]

    def _count(self, spec: Mapping[str, Any]) -> str:
        plan = self.client.plan_study(spec)
        return count_words(plan, get_at(spec, "search.kind") == "halving")


def count_words(plan: Mapping[str, int], halving: bool = False) -> str:
    """An honest count: what will be trained and examined, and what is there already."""
    cells, reused = plan["cells"], plan["reused"]
    sizes = f"{_counted(plan['rows'], 'row')} × {_counted(plan['seeds'], 'seed')}"
    words = f"{sizes} = {_counted(cells, 'pre-training')} and {_counted(cells, 'evaluation')}"
    if reused:
        words += f"; {reused} of the pre-trainings are there already and are not run again"
    return words + (", then those of the trials that are promoted" if halving else "") + "."


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def starting_study(preset: str) -> dict[str, Any]:
    """A built-in study as it stands."""
    return presets("study")[preset]


def _written(spec: dict[str, Any], seeds: str, steps: float | None) -> dict[str, Any]:
    """The spec with what the fields say; steps that say what the base says anyway are not written."""
    words = [word.strip() for word in seeds.split(",") if word.strip()]
    if seeds != _seeds(spec):
        spec = put_at(spec, "seeds", [int(word) if word.isdigit() else word for word in words])
    if steps is not None and steps != _steps(spec):
        spec = put_at(spec, "pretrain.steps", int(steps) if float(steps).is_integer() else steps)
    return spec


def _seeds(spec: Mapping[str, Any]) -> str:
    seeds = spec.get("seeds", [0])
    return ", ".join(map(str, seeds)) if isinstance(seeds, list) else ""


def _steps(spec: Mapping[str, Any]) -> int | None:
    """Of the base; None when it is not valid, or when the rows differ in their steps."""
    variants = [variant for axis in spec.get("axes", ()) for variant in axis["variants"]]
    if any("steps" in variant.get("spec", ()) for variant in variants) or get_at(spec, "search.rungs"):
        return None
    try:
        return parse_as(PretrainSpec, spec.get("pretrain", {})).steps
    except UserError:
        return None


def _steps_field(spec: Mapping[str, Any]) -> Any:
    """The field, closed when it would change nothing."""
    steps = _steps(spec)
    return gr.Number(steps, interactive=steps is not None)


def _question(spec: Mapping[str, Any]) -> str:
    return f'<p class="lcl-note">{esc(spec.get("question", ""))}</p>'
