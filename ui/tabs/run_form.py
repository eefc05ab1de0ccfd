"""Form for one kind of run: main fields, JSON editor, validation message and estimate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from api.client import ApiError, Client
from lcl_core.common.errors import UserError
from ui.common import SILENT_EVENT
from ui.html import definition_list, duration, esc, run_link, status_line
from ui.spec_fields import (
    FIRST_PRESET,
    Field,
    check,
    from_json,
    get_at,
    main_fields,
    preset_names,
    put_at,
    starting_spec,
    to_json,
)

CERTAINTY_LABELS = {
    "measured": ("As measured", "runs of this very setup told the rate"),
    "scaled": ("Scaled", "from runs of other sizes"),
    "assumed": ("A guess", "no run has told a rate yet"),
}
WHEN_VALID = status_line("An estimate follows once the spec is valid.")
_SI_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
MEMORY_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "moments": "AdamW's moments",
    "average": "moving average",
    "copies": "copies",
    "activations": "activations",
    "process": "the process itself",
}


def draw_estimate(found: dict[str, Any]) -> str:
    """Time and memory first, each with its range; then counts; the reasons can be opened."""
    word, why = CERTAINTY_LABELS[found["certainty"]]
    return (
        f'<section class="lcl-estimate" aria-label="Estimate"><header><h3>This run would take</h3>'
        f'<p class="lcl-estimate__sure lcl-estimate__sure--{esc(found["certainty"])}"><b>{word}</b> {why}</p></header>'
        f"{_estimate_headline(found)}{definition_list(_estimate_counts(found))}{_estimate_basis(found)}</section>"
    )


def format_bytes(count: float) -> str:
    """Bytes for people: ``1.5 GiB``, ``73 MiB``."""
    for unit, words in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if count >= unit:
            return f"{count / unit:.3g} {words}" if count < 1000 * unit else f"{count / unit:,.0f} {words}"
    return f"{count / 1024:.3g} KiB"


def format_si(value: float) -> str:
    """``6411265`` -> ``6.41 M``."""
    for unit, prefix in _SI_UNITS:
        if abs(value) >= unit:
            return f"{value / unit:.3g} {prefix}"
    return f"{value:.3g} "


def _estimate_headline(found: dict[str, Any]) -> str:
    seconds, memory = found["seconds"], found["memory_bytes"]
    where = "of a GPU, a process" if found["device"] == "gpu" else "a process"
    return (
        '<div class="lcl-estimate__main">'
        f"<p><b>{esc(duration(seconds['expected']))}</b> <span>{_range(seconds, duration)}</span></p>"
        f"<p><b>{esc(format_bytes(memory['expected']))}</b> <span>peak memory {where}, {_range(memory, format_bytes)}</span></p></div>"
    )


def _range(found: dict[str, Any], words: Any) -> str:
    low, high = words(found["low"]), words(found["high"])
    return esc(low if low == high else f"{low} to {high}")


def _estimate_counts(found: dict[str, Any]) -> list[tuple[str, str]]:
    samples, step = found["samples"], found["per_step"]
    return [
        ("Parameters", format_si(found["parameters"]).strip()),
        ("Operations", f"{format_si(found['flops'])}FLOP"),
        ("Operations a step", f"{format_si(found['flops_per_step'])}FLOP"),
        ("Pictures", f"{format_si(samples['images']).strip()} ({step['images']:,.0f} a step)"),
        ("Documents", f"{format_si(samples['documents']).strip()} ({step['documents']:,.0f} a step)"),
        ("Tokens", f"{format_si(samples['tokens']).strip()} ({step['tokens']:,.0f} a step)"),
        ("A checkpoint", format_bytes(found["checkpoint_bytes"])),
        ("Disk in the end", format_bytes(found["disk_bytes"])),
    ]


def _estimate_basis(found: dict[str, Any]) -> str:
    sentences = "".join(f"<li>{_link_runs(sentence, found['runs'])}</li>" for sentence in found["basis"])
    parts = found["memory_parts"]
    counted = ", ".join(f"{words} {format_bytes(parts[name])}" for name, words in MEMORY_PARTS.items() if parts[name])
    return (
        f"<details><summary>What this rests on</summary><ul>{sentences}<li>Counted: {esc(counted)}.</li></ul></details>"
    )


def _link_runs(sentence: str, runs: list[str]) -> str:
    """The runs that it names lead to themselves."""
    words = esc(sentence)
    for run_id in runs:
        words = words.replace(esc(run_id), run_link(run_id))
    return words


ESTIMATED_KINDS = ("pretrain",)  # kinds of which the service says beforehand what they take
LISTED_RESOURCES = {
    "encoder": "encoders",
    "dataset": "datasets",
}  # last part of a path -> what the service lists for it


class SpecForm:
    """Fields and editor stay in step: an edit of either shows in the other at once."""

    def __init__(self, client: Client, kind: str) -> None:
        self.client = client
        self.kind = kind
        self.fields = main_fields(kind)
        self.presets = preset_names(kind)
        self.estimates: list[Any] = []

    def build(self, visible: bool) -> None:
        spec = starting_spec(self.kind, FIRST_PRESET if FIRST_PRESET in self.presets else None)
        with gr.Column(visible=visible, elem_classes="lcl-form") as self.column:
            with gr.Row():
                self.name = gr.Textbox("", label="Name", placeholder="optional, for people", max_lines=1, min_width=180)
                self.preset = gr.Dropdown(
                    self.presets, value=spec.get("preset"), label="Preset", visible=bool(self.presets), min_width=180
                )
            with gr.Row(elem_classes="lcl-fields"):
                self.inputs = [_input_component(field, get_at(spec, field.path)) for field in self.fields]
            with gr.Accordion("Full spec (JSON)", open=False):
                self.editor = gr.Code(
                    to_json(spec), language="json", label="Spec", interactive=True, lines=12, max_lines=22, buttons=[]
                )
            if self.kind in ESTIMATED_KINDS:
                self.estimates = [gr.HTML(apply_default_css=False, elem_id=f"estimate-{self.kind}")]
            with gr.Row(elem_classes="lcl-submit"):
                verdict = self.judge(to_json(spec))
                self.verdict = gr.HTML(verdict, apply_default_css=False, elem_id=f"verdict-{self.kind}")
                self.submit = gr.Button("Submit run", variant="primary", elem_id=f"submit-{self.kind}")

    @property
    def parts(self) -> list[Any]:
        """What ``fill`` and ``put_aside`` write."""
        return [self.column, self.name, self.preset, *self.shown]

    @property
    def shown(self) -> list[Any]:
        """What shows the spec, and what follows from it."""
        return [self.editor, self.verdict, *self.estimates, *self.inputs]

    @property
    def width(self) -> int:
        """How many ``shown`` are."""
        return 2 + (self.kind in ESTIMATED_KINDS) + len(self.fields)

    def wire(self) -> None:
        """Events inside the form; what follows a submission is wired by the tab."""
        self.preset.input(self.take_preset, self.preset, self.shown, **SILENT_EVENT)
        self.editor.input(self.read_editor, self.editor, self.shown[1:], trigger_mode="always_last", **SILENT_EVENT)
        # One event for all fields: two would overtake each other, and the older answer could be written last.
        gr.on(
            [component.input for component in self.inputs],
            self.write_fields, [self.editor, *self.inputs], [self.editor, self.verdict, *self.estimates],
            trigger_mode="always_last", **SILENT_EVENT,
        )  # fmt: skip

    def take_preset(self, preset: str) -> tuple[Any, ...]:
        spec = starting_spec(self.kind, preset)
        return self._as_a_whole(spec)

    def fill(self, spec: dict[str, Any], name: str | None) -> list[Any]:
        """Show the form with that spec."""
        return [gr.Column(visible=True), name or "", spec.get("preset"), *self._as_a_whole(spec)]

    def put_aside(self) -> list[Any]:
        """Another form is shown; what stands in this one stays."""
        return [gr.Column(visible=False), *[gr.skip()] * (2 + self.width)]

    def read_editor(self, text: str) -> tuple[Any, ...]:
        """Fields follow the editor while it holds JSON at all."""
        try:
            shown = self._shown(from_json(text))
        except UserError:
            shown = [gr.skip()] * len(self.fields)
        return *self._said(text), *shown

    def write_fields(self, text: str, *values: Any) -> tuple[Any, ...]:
        """The editor follows the fields; JSON that is broken is left to be mended."""
        try:
            spec = from_json(text)
            for field, value in zip(self.fields, values, strict=True):
                if not field.agrees(get_at(spec, field.path), value):
                    spec = put_at(spec, field.path, field.to_spec(value))
        except (UserError, IndexError):
            return gr.skip(), *self._said(text)
        return to_json(spec), *self._said(to_json(spec))

    def judge(self, text: str) -> str:
        """A line that says whether the spec is valid, and if not where and why."""
        try:
            check(self.kind, text)
        except UserError as error:
            return invalid_message(error.field, error.message)
        return '<p class="lcl-verdict lcl-verdict--good" role="status">The spec is valid.</p>'

    def estimate(self, text: str) -> str:
        """What a run of the spec would take; the service looks further than the spec alone, and may say no too."""
        try:
            spec = check(self.kind, text)
            return draw_estimate(self.client.estimate(self.kind, spec))
        except UserError:
            return WHEN_VALID
        except ApiError as error:
            return status_line(f"No estimate: {error.message}")

    def refresh(self, text: str) -> list[Any]:
        """Pickers offer what the service has; a required name that is still empty takes the newest.

        Returns: updates for all of ``shown``. Raises: ApiError, UserError.
        """
        spec = before = from_json(text)
        offers = {"encoders": _item_names(self.client.encoders()), "datasets": _item_names(self.client.datasets())}
        updates: list[Any] = []
        for field in self.fields:
            value, listed = get_at(spec, field.path), LISTED_RESOURCES.get(field.path.rpartition(".")[2])
            if listed is not None:
                value = value or next(iter(offers[listed]), None)
                updates.append(gr.Dropdown(choices=offers[listed], value=value))
            elif field.path == "collection" and not value:
                value = get_at(spec, "dataset")
                updates.append(value)
            else:
                updates.append(gr.skip())
            spec = put_at(spec, field.path, value)
        if spec == before:  # whoever is typing meanwhile is not disturbed
            return [gr.skip(), gr.skip(), *self._estimated(text), *updates]
        return [to_json(spec), *self._said(to_json(spec)), *updates]

    def send(self, text: str, name: str, values: Sequence[Any]) -> tuple[str, str | None]:
        """Submit. Returns the verdict and the new run's id, or None when it was refused."""
        try:
            spec = check(self.kind, text)
            for field, value in zip(self.fields, values, strict=True):
                if not field.agrees(get_at(spec, field.path), value):
                    return invalid_message(
                        field.path, "field and JSON were not yet in step; look again and submit."
                    ), None
            run = self.client.submit(self.kind, spec, name=name.strip() or None)
        except (UserError, ApiError) as error:
            return invalid_message(error.field, error.message), None
        words = f"Submitted as {run['id']}. Its progress is shown below."
        return f'<p class="lcl-verdict lcl-verdict--good" role="status">{esc(words)}</p>', run["id"]

    def _as_a_whole(self, spec: dict[str, Any]) -> tuple[Any, ...]:
        """For ``shown``."""
        text = to_json(spec)
        return text, *self._said(text), *self._shown(spec)

    def _said(self, text: str) -> list[str]:
        """The verdict, and what the kind is estimated at."""
        return [self.judge(text), *self._estimated(text)]

    def _estimated(self, text: str) -> list[str]:
        return [self.estimate(text)] if self.kind in ESTIMATED_KINDS else []

    def _shown(self, spec: dict[str, Any]) -> list[Any]:
        return [field.to_form(get_at(spec, field.path)) for field in self.fields]


def invalid_message(field: str | None, message: str) -> str:
    """Where and why, the field set apart."""
    where = f"<code>{esc(field)}</code>" if field else ""
    words = message.removeprefix(f"{field}: ")
    return f'<p class="lcl-verdict lcl-verdict--bad" role="alert">{where}{esc(words)}</p>'


def _item_names(items: list[dict[str, Any]]) -> list[str]:
    return [str(item.get("name") or item["id"]) for item in items]


def _input_component(field: Field, value: Any) -> Any:
    """The input for a field. Bounds are judged by the spec itself, whose message says more."""
    shared: dict[str, Any] = {"label": field.title, "info": field.info or None, "min_width": 190}
    shown = field.to_form(value)
    if field.path.rpartition(".")[2] in LISTED_RESOURCES:
        return gr.Dropdown([shown] if shown else [], value=shown or None, allow_custom_value=True, **shared)
    if field.kind in ("integer", "number"):
        return gr.Number(shown, precision=None, **shared)
    if field.kind == "boolean":
        return gr.Checkbox(shown, **shared)
    if field.kind == "choice":
        return gr.Dropdown(list(field.options), value=shown, **shared)
    if field.kind == "choices":
        return gr.CheckboxGroup(list(field.options), value=shown, **shared)
    hint = "comma-separated" if field.kind == "list" else ""
    return gr.Textbox(shown, placeholder=hint, max_lines=1, **shared)
