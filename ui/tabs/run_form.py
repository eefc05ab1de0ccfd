"""Form for one kind of run: main fields, JSON editor, validation message and estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from api.client import ApiError, Client, UserError
from api.client.payloads import Json, format_bytes, format_si
from ui.common import LAST_COUNTS, SILENT_EVENT, PageSelection, draft_script, html_pane
from ui.html import definition_list, duration, esc, run_link, status_line
from ui.ranking import rank_encoders
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

# Writes a proposal into the form, unless editor or fields have changed since the service was asked for it: the answer
# may arrive after a clone has filled the form. None in ``after``: the value stays; it is not written again, since more
# may have been typed before the page writes it.
APPLY_PROPOSAL_SCRIPT = """(proposal, ...current) => {
  const { before, after } = proposal ?? { before: [], after: [] };
  const given = [current[0], ...current.slice(current.length - before.length + 1)];
  const unchanged = JSON.stringify(given) === JSON.stringify(before);
  return current.map((_, index) => (unchanged ? after[index] : null) ?? { __type__: 'update' });
}"""
CERTAINTY_LABELS = {
    "measured": ("Measured", "on previous runs of this configuration"),
    "scaled": ("Scaled", "from runs of other sizes"),
    "assumed": ("A guess", "no run has measured a rate yet"),
}
WHEN_VALID = status_line("An estimate follows once the spec is valid.")
MEMORY_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "moments": "AdamW's moments",
    "copies": "copies",
    "activations": "activations",
    "process": "the process itself",
}


def draw_estimate(estimate: Json) -> str:
    """Time and memory with their ranges, counts, and the sources of the estimate."""
    word, why = CERTAINTY_LABELS[estimate["certainty"]]
    return (
        f'<section class="lcl-estimate" aria-label="Estimate"><header><h3>Estimated cost</h3>'
        f'<p class="lcl-estimate__sure lcl-estimate__sure--{esc(estimate["certainty"])}"><b>{word}</b> {why}</p>'
        "</header>"
        f"{_estimate_headline(estimate)}{definition_list(_estimate_counts(estimate))}{_estimate_basis(estimate)}</section>"
    )


def _estimate_headline(estimate: Json) -> str:
    seconds, memory = estimate["seconds"], estimate["memory_bytes"]
    where = "of a GPU, a process" if estimate["device"] == "gpu" else "a process"
    return (
        '<div class="lcl-estimate__main">'
        f"<p><b>{esc(duration(seconds['expected']))}</b> <span>{_range(seconds, duration)}</span></p>"
        f"<p><b>{esc(format_bytes(memory['expected']))}</b> "
        f"<span>peak memory {where}, {_range(memory, format_bytes)}</span></p></div>"
    )


def _range(estimate: Json, words: Any) -> str:
    low, high = words(estimate["low"]), words(estimate["high"])
    return esc(low if low == high else f"{low} to {high}")


def _estimate_counts(estimate: Json) -> list[tuple[str, str]]:
    samples, step = estimate["samples"], estimate["per_step"]
    return [
        ("Parameters", format_si(estimate["parameters"]).strip()),
        ("Operations", f"{format_si(estimate['flops'])}FLOP"),
        ("Operations a step", f"{format_si(estimate['flops_per_step'])}FLOP"),
        ("Images", f"{format_si(samples['images']).strip()} ({step['images']:,.0f} a step)"),
        ("Documents", f"{format_si(samples['documents']).strip()} ({step['documents']:,.0f} a step)"),
        ("Tokens", f"{format_si(samples['tokens']).strip()} ({step['tokens']:,.0f} a step)"),
        ("A checkpoint", format_bytes(estimate["checkpoint_bytes"])),
        ("Final disk use", format_bytes(estimate["disk_bytes"])),
    ]


def _estimate_basis(estimate: Json) -> str:
    sentences = "".join(f"<li>{esc(sentence)}</li>" for sentence in estimate["basis"])
    for run_id in estimate["runs"]:
        sentences = sentences.replace(esc(run_id), run_link(run_id))
    parts = estimate["memory_parts"]
    counted = ", ".join(f"{words} {format_bytes(parts[name])}" for name, words in MEMORY_PARTS.items() if parts[name])
    basis = f"{sentences}<li>Counted: {esc(counted)}.</li>"
    return f"<details><summary>How this was estimated</summary><ul>{basis}</ul></details>"


ESTIMATED_KINDS = ("pretrain",)  # kinds with an estimate
LISTED_RESOURCES = {"encoder": "encoders", "dataset": "datasets"}  # last part of a field -> resource with its choices


class SpecForm:
    """Fields and JSON editor show the same spec: an edit of either updates the other."""

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
                self.name = gr.Textbox(
                    "", label="Name", placeholder="optional, for people", max_lines=1, min_width=180,
                    elem_classes="lcl-form__name",
                )  # fmt: skip
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
                self.estimates = [html_pane(elem_id=f"estimate-{self.kind}")]
            with gr.Row(elem_classes="lcl-submit"):
                verdict = self.validate(to_json(spec))
                self.verdict = html_pane(verdict, elem_id=f"verdict-{self.kind}")
                self.submit = gr.Button("Submit run", variant="primary", elem_id=f"submit-{self.kind}")
            self.proposal = gr.JSON(visible=False)
        self.turn = gr.State(PageSelection(0))  # number of the newest estimate

    @property
    def parts(self) -> list[Any]:
        """Outputs of ``fill`` and ``hide``."""
        return [self.column, self.name, self.preset, *self.outputs]

    @property
    def outputs(self) -> list[Any]:
        """Editor, validation message, estimate and fields."""
        return [self.editor, self.verdict, *self.estimates, *self.inputs]

    @property
    def output_count(self) -> int:
        """Number of ``outputs``."""
        return 2 + (self.kind in ESTIMATED_KINDS) + len(self.fields)

    @property
    def choices(self) -> list[Any]:
        """Dropdowns whose choices the service has."""
        return [component for field, component in zip(self.fields, self.inputs, strict=True) if _listed_resource(field)]

    def wire_proposal(self, event: Any, js: str | None) -> None:
        """After ``event``: choices, defaults and estimate from the service. ``js`` may empty the text to skip it."""
        event.then(
            self.propose, [self.editor, *self.inputs], [self.proposal, *self.choices], js=js, **SILENT_EVENT
        ).then(None, [self.proposal, *self.outputs], self.outputs, js=APPLY_PROPOSAL_SCRIPT)

    def wire(self) -> None:
        """Events inside the form; what follows a submission is wired by the tab."""
        edits = [
            self.preset.input(self.apply_preset, self.preset, self.outputs, **SILENT_EVENT | LAST_COUNTS),
            self.editor.input(self.read_editor, self.editor, self.outputs[1:], **SILENT_EVENT | LAST_COUNTS),
        ]
        # One event for all fields: separate events overtake each other, and the older result could be written last.
        edits.append(gr.on(
            [component.input for component in self.inputs],
            self.write_fields, [self.editor, *self.inputs], [self.editor, self.verdict, *self.estimates],
            **SILENT_EVENT | LAST_COUNTS,
        ))  # fmt: skip
        for edit in edits:
            self.wire_estimate(edit)
        for edit in (self.name.input(None), *edits):
            edit.then(None, [self.name, self.editor], js=draft_script(self.kind))

    def wire_estimate(self, event: Any) -> None:
        """After ``event``: the estimate of the service. The form does not wait for it: more may be edited meanwhile."""
        for pane in self.estimates:
            event.then(self.update_estimate, [self.turn, self.editor], pane, **SILENT_EVENT | LAST_COUNTS)

    def apply_preset(self, preset: str) -> tuple[Any, ...]:
        spec = starting_spec(self.kind, preset)
        return self._all_outputs(spec)

    def fill(self, spec: dict[str, Any], name: str | None) -> list[Any]:
        """Show the form with the spec."""
        return [gr.Column(visible=True), name or "", spec.get("preset"), *self._all_outputs(spec)]

    def restore(self, text: str, name: str, visible: bool) -> list[Any]:
        """Show a draft, even one whose JSON is not valid."""
        try:
            parts = self.fill(from_json(text), name)
        except UserError:
            parts = [None, name, gr.skip(), text, *self._messages(text), *[gr.skip()] * len(self.fields)]
        return [gr.Column(visible=visible), *parts[1:]]

    def hide(self) -> list[Any]:
        """Hide the form; its values stay."""
        return [gr.Column(visible=False), *[gr.skip()] * (2 + self.output_count)]

    def read_editor(self, text: str) -> tuple[Any, ...]:
        """Update the fields; unchanged while the editor has no valid JSON."""
        try:
            values = self._field_values(from_json(text))
        except UserError:
            values = [gr.skip()] * len(self.fields)
        return *self._messages(text), *values

    def write_fields(self, text: str, *values: Any) -> tuple[Any, ...]:
        """Update the editor; invalid JSON stays unchanged."""
        try:
            spec = from_json(text)
            for field, value in zip(self.fields, values, strict=True):
                if not field.agrees(get_at(spec, field.path), value):
                    spec = put_at(spec, field.path, field.to_spec(value))
        except (UserError, IndexError):
            return gr.skip(), *self._messages(text)
        return to_json(spec), *self._messages(to_json(spec))

    def validate(self, text: str) -> str:
        """Validation message: valid, or the field and the error."""
        try:
            check(self.kind, text)
        except UserError as error:
            return invalid_message(error.field, error.message)
        return valid_message("The spec is valid.")

    def estimate(self, text: str) -> str:
        """The estimate of the service, which may reject a valid spec (unknown dataset)."""
        try:
            spec = check(self.kind, text)
            return draw_estimate(self.client.estimate(self.kind, spec))
        except UserError:
            return WHEN_VALID
        except ApiError as error:
            return status_line(f"No estimate: {error.message}")

    def update_estimate(self, turn: PageSelection[int], text: str) -> Any:
        """The estimate of the editor's text; no change if that of a newer one was asked for meanwhile."""
        turn.current = mine = turn.current + 1
        drawn = self.estimate(text)
        return drawn if turn.current == mine else gr.skip()

    def propose(self, text: str, *values: Any) -> list[Any]:
        """Choices of the dropdowns; an empty name gets the best encoder, the newest dataset.

        A dataset stays empty in a form in which a path may take its place. Nothing is proposed on an error of the
        service, or while the editor has no valid JSON or lacks a part that has a field.

        Returns: the proposal for ``APPLY_PROPOSAL_SCRIPT``, and updates of ``choices``.
        """
        try:
            spec = before = from_json(text)
            names = {listed: self._names(listed) for listed in {*filter(None, map(_listed_resource, self.fields))}}
            for field in self.fields:
                spec = put_at(spec, field.path, self._default(field, spec, names))
        except (ApiError, UserError, IndexError):
            return [gr.skip()] * (1 + len(self.choices))
        changed = [
            field.to_form(value) if (value := get_at(spec, field.path)) != get_at(before, field.path) else None
            for field in self.fields
        ]
        filled, verdict = (to_json(spec), self.validate(to_json(spec))) if spec != before else (None, None)
        estimates = [self.estimate(filled or text)] if self.kind in ESTIMATED_KINDS else []
        after = [filled, verdict, *estimates, *changed]
        proposal = {"before": [text, *values], "after": after}
        return [
            proposal,
            *(gr.update(choices=names[listed]) for listed in map(_listed_resource, self.fields) if listed),
        ]

    def _default(self, field: Field, spec: dict[str, Any], names: dict[str, list[str]]) -> Any:
        """The value of a field, else its default."""
        value, listed = get_at(spec, field.path), _listed_resource(field)
        if listed is not None:
            optional = field.path == "dataset" and any(other.path == "path" for other in self.fields)
            return value or (None if optional else next(iter(names[listed]), None))
        if field.path == "collection":
            return value or get_at(spec, "dataset")
        return value

    def _names(self, listed: str) -> list[str]:
        """Names of a resource: datasets newest first, encoders best first. Raises: ApiError."""
        if listed == "datasets":
            return _item_names(sorted(self.client.datasets(), key=lambda each: each["created_at"], reverse=True))
        return list(dict.fromkeys(_item_names(rank_encoders(self.client))))

    def send(self, text: str, name: str, values: Sequence[Any]) -> tuple[str, str | None]:
        """Submit. Returns: message, and the id of the run or None if it was rejected."""
        try:
            spec = check(self.kind, text)
            for field, value in zip(self.fields, values, strict=True):
                if not field.agrees(get_at(spec, field.path), value):
                    return invalid_message(field.path, "field and JSON differ; check them and submit again."), None
            run = self.client.submit(self.kind, spec, name=name.strip() or None)
        except (UserError, ApiError) as error:
            return invalid_message(error.field, error.message), None
        return valid_message(f"Submitted as {run['id']}. Its progress is shown below."), run["id"]

    def _all_outputs(self, spec: dict[str, Any]) -> tuple[Any, ...]:
        """Values of ``outputs``."""
        text = to_json(spec)
        return text, *self._messages(text), *self._field_values(spec)

    def _messages(self, text: str) -> list[Any]:
        """Validation message, and without a call that there is no estimate while the text is wrong."""
        try:
            check(self.kind, text)
            estimate: Any = gr.skip()
        except UserError:
            estimate = WHEN_VALID
        return [self.validate(text), *([estimate] if self.kind in ESTIMATED_KINDS else [])]

    def _field_values(self, spec: dict[str, Any]) -> list[Any]:
        return [field.to_form(get_at(spec, field.path)) for field in self.fields]


def valid_message(message: str) -> str:
    return f'<p class="lcl-verdict lcl-verdict--good" role="status">{esc(message)}</p>'


def invalid_message(field: str | None, message: str) -> str:
    """An error with its field."""
    where = f"<code>{esc(field)}</code>" if field else ""
    words = message.removeprefix(f"{field}: ")
    return f'<p class="lcl-verdict lcl-verdict--bad" role="alert">{where}{esc(words)}</p>'


def _listed_resource(field: Field) -> str | None:
    return LISTED_RESOURCES.get(field.path.rpartition(".")[2])


def _item_names(items: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(item.get("name") or item["id"]) for item in items]


def _input_component(field: Field, value: Any) -> Any:
    """The component of a field. The spec checks bounds, with a better message."""
    shared: dict[str, Any] = {"label": field.title, "info": field.info or None, "min_width": 190}
    default = field.to_form(value)
    if _listed_resource(field):
        return gr.Dropdown([default] if default else [], value=default or None, allow_custom_value=True, **shared)
    if field.kind in ("integer", "number"):
        return gr.Number(default, precision=None, **shared)
    if field.kind == "boolean":
        return gr.Checkbox(default, **shared)
    if field.kind == "choice":
        return gr.Dropdown(list(field.options), value=default, **shared)
    if field.kind == "choices":
        return gr.CheckboxGroup(list(field.options), value=default, **shared)
    hint = "comma-separated" if field.kind == "list" else ""
    return gr.Textbox(default, placeholder=hint, max_lines=1, **shared)
