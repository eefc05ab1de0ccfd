"""Form for one kind of run, or a study: main fields, JSON editor, errors at their fields, and the estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from api.client import ApiError, Client, UserError
from api.client.payloads import Json, format_bytes, format_si
from lcl_core.specs.base import slug
from ui.common import LAST_COUNTS, SILENT_EVENT, PageSelection, draft_script, html_pane
from ui.html import PICK_SCRIPT, definition_list, duration, esc, heading, plural, question_box, run_link, status_line
from ui.ranking import rank_encoders
from ui.spec_fields import (
    FIRST_PRESETS,
    STUDY,
    Field,
    check,
    from_json,
    get_at,
    main_fields,
    plain_error,
    preset_names,
    put_at,
    starting_spec,
    to_json,
)

TITLES = {
    "pretrain": "Pre-train an encoder",
    "evaluate": "Evaluate an encoder",
    "index": "Index a dataset",
    "validate": "Validate a dataset",
    "convert": "Convert a dataset",
    "match": "Match images and sentences of a dataset",
    STUDY: "Start a study",
}
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
ESTIMATED_KINDS = ("pretrain", STUDY)
LISTED_RESOURCES = {"encoder": "encoders", "dataset": "datasets"}  # last part of a field -> resource with its choices
SUFFIXES = {"convert": "converted", "match": "matched"}  # of the name that is proposed for the dataset to make
NEW_NAME, MODES = "new", (("New name", "new"), ("Add to it", "add"), ("Replace it", "replace"))
FOCUS_ERROR_SCRIPT = (
    "() => setTimeout(() => document.querySelector('.lcl-form .bad :is(input, textarea)')?.focus(), 60)"
)


def draw_estimate(estimate: Json) -> str:
    """Time and memory in a line, which unfolds their ranges, counts, and the sources of the estimate."""
    word, why = CERTAINTY_LABELS[estimate["certainty"]]
    seconds, memory = estimate["seconds"], estimate["memory_bytes"]
    samples, step, parts = estimate["samples"], estimate["per_step"], estimate["memory_parts"]
    counts = [
        ("Time", _range(seconds, duration)),
        (f"Peak memory {'of a GPU, ' if estimate['device'] == 'gpu' else ''}a process", _range(memory, format_bytes)),
        ("Parameters", format_si(estimate["parameters"]).strip()),
        ("Operations", f"{format_si(estimate['flops'])}FLOP ({format_si(estimate['flops_per_step'])}FLOP a step)"),
        *(
            (name.title(), f"{format_si(samples[name]).strip()} ({step[name]:,.0f} a step)")
            for name in ("images", "documents", "tokens")
        ),
        ("A checkpoint", format_bytes(estimate["checkpoint_bytes"])),
        ("Final disk use", format_bytes(estimate["disk_bytes"])),
    ]
    sentences = "".join(f"<li>{esc(sentence)}</li>" for sentence in estimate["basis"])
    for run_id in estimate["runs"]:
        sentences = sentences.replace(esc(run_id), run_link(run_id))
    counted = ", ".join(f"{words} {format_bytes(parts[name])}" for name, words in MEMORY_PARTS.items() if parts[name])
    return (
        f'<details class="lcl-estimate" role="region" aria-label="Estimate"><summary>'
        f"≈ <b>{esc(duration(seconds['expected']))}</b> · <b>{esc(format_bytes(memory['expected']))}</b> · "
        f"{word.lower()}: {why}</summary>{definition_list(counts)}"
        f"<ul>{sentences}<li>Counted: {esc(counted)}.</li></ul></details>"
    )


def _range(estimate: Json, words: Any) -> str:
    low, high = words(estimate["low"]), words(estimate["high"])
    return str(low if low == high else f"{low} to {high}")


def plan_summary(plan: Mapping[str, Any]) -> str:
    """Number of runs that a study trains and evaluates, of those that are reused, and the time of the others."""
    cells, reused = plan["cells"], plan["reused"]
    sizes = f"{plural(plan['rows'], 'row')} × {plural(plan['seeds'], 'seed')}"
    words = f"{sizes} = {plural(cells, 'pre-training')} and {plural(cells, 'evaluation')}"
    if reused:
        words += f"; {reused} of the pre-trainings are there already and are not run again"
    if not (seconds := plan.get("seconds")):
        return f"{words}."
    word, why = CERTAINTY_LABELS[plan["certainty"]]
    return (
        f"{words}. Pre-training takes {duration(seconds['expected'])} in one slot, one after another "
        f"({_range(seconds, duration)}; {word.lower()}: {why}); evaluations come on top."
    )


class SpecForm:
    """Fields and JSON editor show the same spec: an edit of either updates the other.

    It is neutral until a field is left with a wrong value, or Start is pressed: then the error stands at its field.
    """

    def __init__(self, client: Client, kind: str) -> None:
        self.client = client
        self.kind = kind
        self.fields = main_fields(kind)
        self.presets = preset_names(kind)
        self.makes = next((each.path for each in self.fields if each.path in ("collection", "name")), "")

    def build(self) -> None:
        spec = starting_spec(self.kind, FIRST_PRESETS.get(self.kind))
        with gr.Column(visible=False, elem_classes="lcl-form", elem_id=f"form-{self.kind}") as self.column:
            html_pane(heading(TITLES[self.kind]))
            with gr.Row():
                first = FIRST_PRESETS.get(self.kind)
                self.preset = gr.Dropdown(
                    self.presets, value=first, label="Preset", visible=bool(self.presets), min_width=180
                )
                self.name = gr.Textbox(
                    "", label="Name", placeholder="optional", max_lines=1, min_width=180, elem_classes="lcl-form__name"
                )
            with gr.Row(elem_classes="lcl-fields"):
                self.inputs = [_input_component(field, get_at(spec, field.path)) for field in self.fields]
            self.mode = gr.Radio(
                MODES, value=NEW_NAME, label="A collection of this name exists", visible=False, elem_id="index-mode"
            )
            with gr.Accordion("Full spec (JSON)", open=False):
                self.editor = gr.Code(
                    to_json(spec), language="json", label="Spec", interactive=True, lines=12, max_lines=22, buttons=[]
                )
            self.estimate = html_pane(elem_id=f"estimate-{self.kind}")
            with gr.Row(elem_classes="lcl-submit"):
                self.verdict = html_pane(elem_id=f"verdict-{self.kind}")
                self.submit = gr.Button("Start run", variant="primary", elem_id=f"submit-{self.kind}")
            self.question = html_pane(js_on_load=PICK_SCRIPT, elem_id=f"question-{self.kind}")
        self.turn = gr.State(PageSelection(0))  # number of the newest estimate
        self.marked = gr.State(("", False))  # path of the field with an error, and whether the collection exists

    @property
    def parts(self) -> list[Any]:
        """Outputs of the form's events."""
        edited = [self.column, self.name, self.preset, *self.inputs, self.mode, self.editor, self.estimate]
        return [*edited, self.verdict, self.question, self.marked]

    @property
    def values(self) -> list[Any]:
        """Inputs of a submission."""
        return [self.editor, self.name, *self.inputs]

    def wire(self) -> None:
        """Events inside the form; what follows a submission is wired by the tab."""
        edits = [
            self.preset.input(
                lambda preset: self.show(starting_spec(self.kind, preset)), self.preset, self.parts,
                **SILENT_EVENT | LAST_COUNTS,
            ),
            self.editor.input(self.read_editor, self.editor, self.parts, **SILENT_EVENT | LAST_COUNTS),
            # One event for all fields: separate ones overtake each other, and the older result could be written last.
            gr.on(
                [component.input for component in self.inputs],
                self.write_fields, [self.editor, *self.inputs], self.parts, **SILENT_EVENT | LAST_COUNTS,
            ),
            self.mode.input(self.choose_mode, [self.editor, self.mode], self.parts, **SILENT_EVENT | LAST_COUNTS),
        ]  # fmt: skip
        for edit in edits:
            self.wire_estimate(edit)
        for edit in (self.name.input(None), *edits):
            edit.then(None, [self.name, self.editor], js=draft_script())
        gr.on(
            [component.blur for component in self.inputs if hasattr(component, "blur")],
            self.mark, [self.marked, self.editor], self.parts, **SILENT_EVENT | LAST_COUNTS,
        )  # fmt: skip

    def wire_estimate(self, event: Any) -> None:
        """After ``event``: the estimate of the service. The form does not wait for it: more may be edited meanwhile."""
        if self.kind in ESTIMATED_KINDS:
            event.then(self.update_estimate, [self.turn, self.editor], self.estimate, **SILENT_EVENT | LAST_COUNTS)

    def open(self, spec: dict[str, Any], name: str = "") -> dict[Any, Any]:
        """The form with the spec. What is empty gets the best encoder, the newest dataset, a name that is free."""
        choices: dict[Any, Any] = {}
        try:
            names = {listed: self._names(listed) for listed in {*filter(None, map(_listed_resource, self.fields))}}
            for field, component in zip(self.fields, self.inputs, strict=True):
                if listed := _listed_resource(field):
                    choices[component] = names[listed]
                    optional = field.path == "dataset" and any(other.path == "path" for other in self.fields)
                    first = None if optional else next(iter(names[listed]), None)
                    spec = put_at(spec, field.path, get_at(spec, field.path) or first)
            if self.makes and (not spec.get(self.makes) or spec[self.makes] in self._taken()):
                spec = {**spec, self.makes: self._free_name(spec)}
        except (ApiError, IndexError):  # the fields say what is missing once it is submitted
            pass
        shown = self.show(spec)
        for component, names_of in choices.items():
            shown[component] = gr.update(choices=names_of, value=shown[component])
        hidden = {self.question: "", self.verdict: "", self.mode: gr.Radio(value=NEW_NAME, visible=False)}
        more = {
            self.name: name,
            self.preset: spec.get("preset") or FIRST_PRESETS.get(self.kind),
            self.marked: ("", False),
        }
        return {**shown, **hidden, **more, self.column: gr.Column(visible=True)}

    def restore(self, text: str, name: str) -> dict[Any, Any]:
        """The form as it was left, even with JSON that is not valid."""
        try:
            return self.open(from_json(text), name)
        except UserError:
            return {self.column: gr.Column(visible=True), self.name: name, **self.read_editor(text), self.editor: text}

    def show(self, spec: dict[str, Any]) -> dict[Any, Any]:
        """Editor and fields with the spec."""
        values = [field.to_form(get_at(spec, field.path)) for field in self.fields]
        return {self.editor: to_json(spec), **dict(zip(self.inputs, values, strict=True))}

    def read_editor(self, text: str) -> dict[Any, Any]:
        """Update the fields; unchanged while the editor has no valid JSON."""
        try:
            shown = self.show(from_json(text))
        except UserError as error:
            return {self.verdict: invalid_message(error.field, error.message)}
        del shown[self.editor]
        return {**shown, self.verdict: ""}

    def write_fields(self, text: str, *values: Any) -> dict[Any, Any]:
        """Update the editor, and a proposed name that was made of other fields; invalid JSON stays unchanged."""
        try:
            spec = before = from_json(text)
            for field, value in zip(self.fields, values, strict=True):
                if not field.agrees(get_at(spec, field.path), value):
                    spec = put_at(spec, field.path, field.to_spec(value))
            changed: dict[Any, Any] = {}
            proposed = self.makes and str(before.get(self.makes)).startswith(self._stem(before))
            if proposed and spec[self.makes] == before[self.makes] and self._stem(before) != self._stem(spec):
                spec = {**spec, self.makes: self._free_name(spec)}
                changed = {self._input(self.makes): spec[self.makes]}
        except (ApiError, UserError, IndexError):
            return {self.verdict: gr.skip()}
        return {**changed, self.editor: to_json(spec), self.verdict: ""}

    def choose_mode(self, text: str, mode: str) -> dict[Any, Any]:
        """What happens to the collection that exists; a new name is proposed instead."""
        try:
            spec = {name: value for name, value in from_json(text).items() if name != "mode"}
            if mode != NEW_NAME:
                return {self.editor: to_json({**spec, "mode": mode})}
            return self.show({**spec, self.makes: self._free_name(spec)})
        except (ApiError, UserError) as error:
            return {self.verdict: invalid_message(error.field, error.message)}

    def mark(self, marked: tuple[str, bool], text: str, *, started: bool = False) -> dict[Any, Any]:
        """The error at its field, or none any more; before the start what is empty is no error."""
        path, words, exists = "", "", False
        try:
            spec = check(self.kind, text)
            exists = self._existing(spec) is not None
            if exists and started and not spec.get("mode"):
                raise UserError("this one exists; say below what happens to it", field=self.makes)
        except (ApiError, UserError) as error:
            field, words = plain_error(error, self.fields)
            path = field.path if field and (started or words != f"{field.title}: fill this in.") else ""
        return self._marks(marked, path, words, exists)

    def _marks(self, marked: tuple[str, bool], path: str, words: str, exists: bool) -> dict[Any, Any]:
        """Only what changes is updated: an update would close an open menu."""
        updates: dict[Any, Any] = {self.marked: (path, exists)}
        for field in self.fields:
            if field.path == path:
                updates[self._input(path)] = gr.update(info=words, elem_classes=["bad"])
            elif field.path == marked[0]:
                updates[self._input(field.path)] = gr.update(info=field.info or None, elem_classes=[])
        if exists != marked[1]:
            updates[self.mode] = gr.Radio(visible=exists)
        return updates

    def send(
        self, marked: tuple[str, bool], text: str, name: str, *values: Any, confirmed: bool = False
    ) -> tuple[dict[Any, Any], str | None]:
        """Submit. Returns: what the form shows, and the id of the run or study, or None if there is none yet."""
        marks = self.mark(marked, text, started=True)
        cleared = {**marks, self.verdict: "", self.question: ""}
        try:
            spec = check(self.kind, text)
            if marks[self.marked][0]:
                return cleared, None
            for field, value in zip(self.fields, values, strict=True):
                if not field.agrees(get_at(spec, field.path), value):
                    raise UserError("field and JSON differ; check them and start again", field=field.path)
            existing = self._existing(spec)
            if existing and spec.get("mode") == "replace" and not confirmed:
                lost = f"Its {existing['images']:,} images and tags are deleted."
                asked = question_box(
                    f"Replace {existing['name']}?", lost, ("replace:", "Replace"), ("keep:", "Keep it")
                )
                return {**cleared, self.question: asked}, None
            if self.kind == STUDY:
                return cleared, self.client.submit_study(spec, name.strip() or spec.get("preset"))["id"]
            return cleared, self.client.submit(self.kind, spec, name=name.strip() or None)["id"]
        except (UserError, ApiError) as error:
            about, words = plain_error(error, self.fields)
            if about is None:
                return {**cleared, self.verdict: invalid_message(None, words)}, None
            return {**cleared, **self._marks(marked, about.path, words, marks[self.marked][1])}, None

    def draw_cost(self, text: str) -> str:
        """The estimate of the service, which may reject a valid spec (unknown dataset)."""
        try:
            spec = check(self.kind, text)
            if self.kind == STUDY:
                question = f'<p class="lcl-note">{esc(spec.get("question", ""))}</p>'
                return question + status_line(plan_summary(self.client.plan_study(spec)))
            return draw_estimate(self.client.estimate(self.kind, spec))
        except UserError:
            return WHEN_VALID
        except ApiError as error:
            return status_line(f"No estimate: {error.message}")

    def update_estimate(self, turn: PageSelection[int], text: str) -> Any:
        """The estimate of the editor's text; no change if that of a newer one was asked for meanwhile."""
        turn.current = mine = turn.current + 1
        drawn = self.draw_cost(text)
        return drawn if turn.current == mine else gr.skip()

    def _input(self, path: str) -> Any:
        return self.inputs[[field.path for field in self.fields].index(path)]

    def _names(self, listed: str) -> list[str]:
        """Names of a resource: datasets newest first, encoders best first. Raises: ApiError."""
        if listed == "datasets":
            return _item_names(sorted(self.client.datasets(), key=lambda each: each["created_at"], reverse=True))
        return list(dict.fromkeys(_item_names(rank_encoders(self.client))))

    def _taken(self) -> list[str]:
        return _item_names(self.client.collections() if self.kind == "index" else self.client.datasets())

    def _existing(self, spec: Mapping[str, Any]) -> Json | None:
        """The collection that an index run would replace, if there is one. Raises: ApiError."""
        if self.kind != "index":
            return None
        return next((each for each in self.client.collections() if each["name"] == spec.get("collection")), None)

    def _stem(self, spec: Mapping[str, Any]) -> str:
        """What the proposed name of a collection or dataset begins with."""
        encoder = str(spec.get("encoder") or "") if self.kind == "index" else SUFFIXES.get(self.kind, "")
        if encoder.startswith("enc_"):
            encoder = next((each["name"] for each in self.client.encoders() if each["id"] == encoder), encoder)
        return slug("-".join(filter(None, (spec.get("dataset"), encoder))))[:90]

    def _free_name(self, spec: Mapping[str, Any]) -> str:
        """The first name of which there is none yet. Raises: ApiError."""
        stem, taken = self._stem(spec), self._taken()
        names = (stem, *(f"{stem}-{number}" for number in range(2, len(taken) + 3)))
        return next(name for name in names if name not in taken)


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
    hint = "comma-separated" if field.kind in ("list", "integers") else ""
    return gr.Textbox(default, placeholder=hint, max_lines=1, **shared)
