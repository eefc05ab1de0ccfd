"""The form of a new run or study: fields and JSON of one spec, errors at their fields, and the estimate.

It is one piece of HTML, which each edit draws again. The browser leaves alone what the server has not changed, so that
nothing is lost of what is being typed.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from api.client import ApiError, Client, UserError
from api.client.payloads import Json, format_bytes, format_si
from lcl_core.specs.base import slug
from ui.addresses import address, mark_view
from ui.html import definition_list, duration, esc, fold, heading, plural, question_box, run_link, status_line
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
Values = Mapping[str, Sequence[str]]  # texts of the fields of a form, by name
WHEN_VALID = status_line("An estimate follows once the spec is valid.")
ESTIMATED_KINDS = ("pretrain", STUDY)
LISTED = ("encoder", "dataset")  # last part of a field whose choices the service lists
SUFFIXES = {"convert": "converted", "match": "matched"}  # of the name that is proposed for the dataset to make
NEW_NAME, MODES = "new", {"new": "New name", "add": "Add to it", "replace": "Replace it"}
# For gr.HTML(js_on_load=...): an edit in a form[data-draft], the submission of any form, and a press of an element with
# data-pick inside a form are a select event ``VERB:JSON``. The JSON has lists of texts by the names of the fields, and
# ``changed``: the name of the edited one; ``spec``, while the server has not seen an edit of that field; and ``sent``:
# a later event has a higher number.
FORM_SCRIPT = """
const read = (form, name) => {
  const values = {}, { spec } = form.elements;
  for (const [field, value] of new FormData(form)) (values[field] ??= []).push(value);
  return { ...values, changed: [spec && spec.value !== spec.defaultValue ? 'spec' : name] };
};
let last = 'change', sent = 0, pending = 0, next = null;
// One event after the other: answers may overtake each other. What waits is sent with the values of that moment.
const send = (form, verb, name) => {
  if (pending) { next = [form, verb, name || next?.[2] || '']; return; }
  last = verb;
  sent = Math.max(sent + 1, Date.now());
  pending = setTimeout(proceed, 5000);  // there was no answer
  trigger('select', {pick: `${verb}:${JSON.stringify({ ...read(form, name), sent: [sent] })}`});
};
const proceed = () => {
  clearTimeout(pending);
  pending = 0;
  const waiting = next;
  next = null;
  if (waiting?.[0].isConnected) send(...waiting);
};
element.addEventListener('input', ({ target }) => {
  if (target.closest('form[data-draft]')) window.lclDraft.save(read(target.form, target.name));
});
element.addEventListener('change', ({ target }) => {
  if (target.closest('form[data-draft]')) send(target.form, 'change', target.name);
});
element.addEventListener('submit', (event) => {
  event.preventDefault();
  send(event.target, event.target.getAttribute('data-form'), '');  // form.dataset may be a field of this name
});
element.addEventListener('click', ({ target }) => {
  const chosen = target.closest('form [data-pick]');
  if (chosen) send(chosen.closest('form'), chosen.dataset.pick.split(':')[0], '');
});
new MutationObserver((changes) => changes.forEach(({ target }) => target.reset()))
  .observe(element, {subtree: true, attributeFilter: ['data-reset']});
watch('value', () => {
  if (!element.querySelector(`[data-sent="${sent}"]`) && element.querySelector('form[data-draft]')) return;
  if (pending) queueMicrotask(proceed);
  if (last === 'change') return;
  const closed = !element.querySelector('form[data-draft]');
  const wrong = element.querySelector('.bad :is(input, select)');
  if (closed) window.lclDraft.drop();
  wrong?.focus();
  window.lclQuestion.focus();
  if (closed || wrong) last = 'change';
});
"""


def draw_estimate(estimate: Json) -> str:
    """Time and memory in a line, which unfolds their ranges, counts, and the sources of the estimate."""
    word, why = CERTAINTY_LABELS[estimate["certainty"]]
    seconds, memory = estimate["seconds"], estimate["memory_bytes"]
    counts = [
        ("Time", _range(seconds, duration)),
        (f"Peak memory {'of a GPU, ' if estimate['device'] == 'gpu' else ''}a process", _range(memory, format_bytes)),
        ("Parameters", format_si(estimate["parameters"]).strip()),
        ("Operations", f"{format_si(estimate['flops'])}FLOP ({format_si(estimate['flops_per_step'])}FLOP a step)"),
        ("Final disk use", format_bytes(estimate["disk_bytes"])),
    ]
    sentences = "".join(f"<li>{esc(sentence)}</li>" for sentence in estimate["basis"])
    for run_id in estimate["runs"]:
        sentences = sentences.replace(esc(run_id), run_link(run_id))
    return (
        f'<details class="lcl-estimate" role="region" aria-label="Estimate"><summary>'
        f"≈ <b>{esc(duration(seconds['expected']))}</b> · <b>{esc(format_bytes(memory['expected']))}</b> · "
        f"{word.lower()}: {why}</summary>{definition_list(counts)}<ul>{sentences}</ul></details>"
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


@dataclass(frozen=True)
class FilledForm:
    """A form as it is filled in.

    Args:
        text: the spec as JSON, valid or not.
        values: of its fields, by path.
        name: of the run.
        linked: parameters of the address that opened it.
        choices: names of encoders and datasets.
        error: path of the field, or empty, and what is wrong; two empty texts: nothing.
        existing: the collection of the chosen name, if there is one.
        asks: whether that collection may be replaced.
        estimate: HTML.
        key: a second submission with it makes no second run.
        version: another one: the browser takes over all values, whatever was typed.
        sent: number of the event that changed it last.
    """

    kind: str
    text: str = ""
    values: Values = field(default_factory=dict)
    name: str = ""
    linked: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    error: tuple[str, str] = ("", "")
    existing: Json | None = None
    asks: bool = False
    estimate: str = ""
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    version: int = field(default_factory=time.monotonic_ns)
    sent: str = ""

    @property
    def fields(self) -> tuple[Field, ...]:
        return main_fields(self.kind)

    @property
    def makes(self) -> str:
        """The field that names the collection or dataset to make; empty without one."""
        return next((each.path for each in self.fields if each.path in ("collection", "name")), "")

    def with_spec(self, spec: Mapping[str, Any]) -> FilledForm:
        """Fields and JSON show ``spec``."""
        values = {each.path: each.to_form(get_at(spec, each.path)) for each in self.fields}
        values["preset"] = [str(spec.get("preset") or FIRST_PRESETS.get(self.kind, ""))]
        values["mode"] = [str(spec.get("mode") or NEW_NAME)]
        return replace(self, text=to_json(spec), values=values)

    def draw(self) -> str:
        head = ""
        if names := preset_names(self.kind):
            preset = Field("preset", "Preset", "choice", options=tuple(names))
            head = draw_field(preset, self.values.get("preset", ()))
        head += draw_field(Field("run-name", "Name", "text", "of the run; optional"), [self.name])
        for each in self.fields:
            words = self.error[1] if self.error[0] == each.path else ""
            head += draw_field(each, self.values.get(each.path, ()), self.choices.get(each.path), words)
            if self.existing and each.path == self.makes:
                head += self._draw_modes()
        path, words = self.error
        verdict = f'<p class="lcl-verdict" role="alert">{esc(words)}</p>' if words and not path else ""
        text = f'<textarea name="spec" rows="14" spellcheck="false" aria-label="Spec">\n{esc(self.text)}</textarea>'
        foot = (
            f'<div class="lcl-submit"><div id="estimate">{self.estimate}</div>'
            '<button type="submit" id="submit-run">Start run</button></div>'
        )
        back = f'<a class="lcl-back" href="{address(tab="runs")}">‹ Runs</a>{heading(TITLES[self.kind])}'
        form = (
            f'<form class="lcl-form" id="form-{self.kind}" data-form="start" data-draft data-sent="{esc(self.sent)}" '
            f'data-reset="{self.version}" novalidate autocomplete="off">'
            f'<input type="hidden" name="kind" value="{self.kind}">'
            f'<div class="lcl-fields">{head}</div>{fold("Full spec (JSON)", text)}'
            f"{verdict}{foot}{self._draw_question()}</form>"
        )
        return mark_view(back + form, "New run", **self.linked)

    def _draw_modes(self) -> str:
        chosen = self.values.get("mode", ())
        radios = "".join(
            f'<label><input type="radio" name="mode" value="{mode}"{" checked" * (mode in chosen)}>{words}</label>'
            for mode, words in MODES.items()
        )
        legend = "<legend>A collection of this name exists</legend>"
        return f'<fieldset class="lcl-field">{legend}<div>{radios}</div></fieldset>'

    def _draw_question(self) -> str:
        if not self.asks or self.existing is None:
            return ""
        lost = f"Its {self.existing['images']:,} images and tags are deleted."
        return question_box(f"Replace {self.existing['name']}?", lost, ("replace:", "Replace"), ("keep:", "Keep it"))


class RunForm:
    """Changes a ``FilledForm``, and submits it."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def open(
        self, kind: str, spec: dict[str, Any], name: str = "", linked: Mapping[str, str] | None = None
    ) -> FilledForm:
        """The form with the spec. What is empty gets the best encoder, the newest dataset, a name that is free."""
        draft = FilledForm(kind, name=name, linked=linked or {})
        try:
            listed = {each.path: each.path.rpartition(".")[2] for each in draft.fields}
            names = {last: self._names(last) for last in {*listed.values()} & {*LISTED}}
            draft = replace(draft, choices={path: names[last] for path, last in listed.items() if last in names})
            for path, choices in draft.choices.items():
                if choices and not get_at(spec, path) and not (path == "dataset" and "path" in listed):
                    spec = put_at(spec, path, choices[0])
            if draft.makes and (not spec.get(draft.makes) or spec[draft.makes] in self._taken(kind)):
                spec = {**spec, draft.makes: self._free_name(kind, spec)}
        except (ApiError, IndexError):  # the fields say what is missing once it is submitted
            pass
        return draft.with_spec(spec)

    def change(self, draft: FilledForm, values: Values) -> FilledForm:
        """After an edit: fields that were edited are in the JSON, or an edit of the JSON, or a preset, in the fields.

        A proposed name that was made of other fields follows them.
        """
        changed, text = _first(values, "changed"), _first(values, "spec")
        draft = replace(draft, text=text, values=values, name=_first(values, "run-name"))
        try:
            if changed == "preset" and _first(values, "preset") in preset_names(draft.kind):
                draft = _anew(draft, starting_spec(draft.kind, _first(values, "preset")))
            elif changed == "spec":
                draft = _anew(draft, from_json(text))
            elif changed == "mode":
                spec = {name: value for name, value in from_json(text).items() if name != "mode"}
                mode = _first(values, "mode")
                new = {"mode": mode} if mode != NEW_NAME else {draft.makes: self._free_name(draft.kind, spec)}
                draft = _anew(draft, spec | new)
            else:
                draft = draft.with_spec(self._read_fields(draft, from_json(text)))
        except (ApiError, UserError) as error:
            return replace(draft, error=("", plain_error(error, ())[1]))
        return self.mark(draft)

    def _read_fields(self, draft: FilledForm, before: dict[str, Any]) -> dict[str, Any]:
        """The spec with the values of the fields. Raises: ApiError; UserError for a field without a place."""
        spec = before
        for each in draft.fields:
            texts = draft.values.get(each.path, ())
            if list(texts) != each.to_form(get_at(spec, each.path)):
                try:
                    spec = put_at(spec, each.path, each.to_spec(texts))
                except IndexError:
                    raise UserError("the JSON has no place for it yet", field=each.path) from None
        if (mode := _first(draft.values, "mode")) not in ("", NEW_NAME):  # chosen a moment ago
            spec = {**spec, "mode": mode}
        stem = self._stem(draft.kind, before)
        proposed = draft.makes and str(before.get(draft.makes)).startswith(stem)
        if proposed and spec[draft.makes] == before[draft.makes] and self._stem(draft.kind, spec) != stem:
            return {**spec, draft.makes: self._free_name(draft.kind, spec)}
        return spec

    def mark(self, draft: FilledForm, *, started: bool = False) -> FilledForm:
        """The draft with its error, or none any more; before the start what is empty is no error."""
        draft = replace(draft, error=("", ""), existing=None, asks=False)
        try:
            spec = check(draft.kind, draft.text)
            if draft.kind == "index":
                named = (each for each in self.client.collections() if each["name"] == spec.get("collection"))
                draft = replace(draft, existing=next(named, None))
            if draft.existing and started and not spec.get("mode"):
                raise UserError("this one exists; say below what happens to it", field=draft.makes)
        except (ApiError, UserError) as error:
            return _with_error(draft, error, started=started)
        return draft

    def start(self, draft: FilledForm, values: Values, *, confirmed: bool = False) -> tuple[FilledForm, str | None]:
        """Submit. Returns: the form, and the id of the run or study, or None if there is none yet."""
        draft = self.change(draft, values)
        if any(draft.error) or any((draft := self.mark(draft, started=True)).error):
            return draft, None
        spec, name = from_json(draft.text), draft.name.strip()
        if draft.existing and spec.get("mode") == "replace" and not confirmed:
            return replace(draft, asks=True), None
        try:
            if draft.kind == STUDY:
                return draft, self.client.submit_study(spec, name or spec.get("preset"), draft.key)["id"]
            return draft, self.client.submit(draft.kind, spec, name=name or None, idempotency_key=draft.key)["id"]
        except ApiError as error:
            return _with_error(draft, error, started=True), None

    def draw_cost(self, draft: FilledForm) -> str:
        """The estimate of the service, which may reject a valid spec (unknown dataset); empty where it makes none."""
        if draft.kind not in ESTIMATED_KINDS:
            return ""
        try:
            spec = check(draft.kind, draft.text)
            if draft.kind == STUDY:
                question = f'<p class="lcl-note">{esc(spec.get("question", ""))}</p>'
                return question + status_line(plan_summary(self.client.plan_study(spec)))
            return draw_estimate(self.client.estimate(draft.kind, spec))
        except UserError:
            return WHEN_VALID
        except ApiError as error:
            return status_line(f"No estimate: {error.message}")

    def _names(self, last: str) -> list[str]:
        """Names to choose from: datasets newest first, encoders best first. Raises: ApiError."""
        if last == "dataset":
            return _item_names(sorted(self.client.datasets(), key=lambda each: each["created_at"], reverse=True))
        return list(dict.fromkeys(_item_names(rank_encoders(self.client))))

    def _taken(self, kind: str) -> list[str]:
        return _item_names(self.client.collections() if kind == "index" else self.client.datasets())

    def _stem(self, kind: str, spec: Mapping[str, Any]) -> str:
        """What the proposed name of a collection or dataset begins with. Raises: ApiError."""
        encoder = str(spec.get("encoder") or "") if kind == "index" else SUFFIXES.get(kind, "")
        if encoder.startswith("enc_"):
            encoder = next((each["name"] for each in self.client.encoders() if each["id"] == encoder), encoder)
        return slug("-".join(filter(None, (spec.get("dataset"), encoder))))[:90]

    def _free_name(self, kind: str, spec: Mapping[str, Any]) -> str:
        """The first name of which there is none yet. Raises: ApiError."""
        stem, taken = self._stem(kind, spec), self._taken(kind)
        names = (stem, *(f"{stem}-{number}" for number in range(2, len(taken) + 3)))
        return next(name for name in names if name not in taken)


def parse_values(text: str) -> dict[str, list[str]]:
    """Texts of a form's fields by name, from the event of FORM_SCRIPT or a stored draft; none: it is no such thing."""
    try:
        values = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(values, dict):
        return {}
    return {name: [str(each) for each in texts] for name, texts in values.items() if isinstance(texts, list)}


def _first(values: Values, name: str) -> str:
    return next(iter(values.get(name, ())), "")


def _anew(draft: FilledForm, spec: Mapping[str, Any]) -> FilledForm:
    """The draft with a spec whose values replace what was typed."""
    return replace(draft.with_spec(spec), version=time.monotonic_ns())


def _with_error(draft: FilledForm, error: ApiError | UserError, *, started: bool) -> FilledForm:
    about, words = plain_error(error, draft.fields)
    if about and not started and words == f"{about.title}: fill this in.":
        return draft
    return replace(draft, error=(about.path if about else "", words))


def draw_field(field: Field, texts: Sequence[str], choices: Sequence[str] | None = None, error: str = "") -> str:
    """Label, control and explanation of a field; in place of the explanation what is wrong.

    ``choices``: names to choose from, in addition to the field's own options.
    """
    name, first = esc(field.path), next(iter(texts), "")
    shared = f'id="field-{name}" name="{name}" aria-describedby="about-{name}"'
    about = f'<small id="about-{name}"{" role=alert" * bool(error)}>{esc(error or field.info)}</small>'
    style = f"lcl-field{' bad' * bool(error)}"
    if field.kind == "choices":
        boxes = "".join(
            f'<label><input type="checkbox" name="{name}" value="{esc(option)}"{" checked" * (option in texts)}>'
            f"{esc(option)}</label>"
            for option in field.options
        )
        return f'<fieldset class="{style}"><legend>{esc(field.title)}</legend><div>{boxes}</div>{about}</fieldset>'
    if field.kind == "boolean":
        box = f'<input type="checkbox" value="on" {shared}{" checked" * bool(texts)}>'
        return f'<div class="{style}"><div><label>{box}{esc(field.title)}</label></div>{about}</div>'
    if options := choices or field.options:
        offered = dict.fromkeys((*options, first))
        marked = "".join(f"<option{' selected' * (each == first)}>{esc(each)}</option>" for each in offered)
        control = f"<select {shared}>{marked}</select>"
    else:
        types = 'type="number" step="any"' if field.kind in ("integer", "number") else 'type="text"'
        hint = ' placeholder="comma-separated"' if field.kind in ("list", "integers") else ""
        control = f'<input {types}{hint} value="{esc(first)}" {shared}>'
    return f'<div class="{style}"><label for="field-{name}">{esc(field.title)}</label>{control}{about}</div>'


def _item_names(items: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(item.get("name") or item["id"]) for item in items]
