"""Try tab: what an encoder says of a visitor's own images: captions, or the nearest of the classes that one names."""

from __future__ import annotations

import base64
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.utils import get_upload_folder

from api.client import ApiError, Client, UserError
from api.client.inference import TOO_MANY
from api.client.payloads import Json, Skipped
from api.client.zero_shot import (
    LabeledAccuracy,
    ZeroShotResult,
    folder_labels,
    label_accuracy,
    match_labels,
    predictions_csv,
)
from lcl_core.specs.zero_shot import PLAIN_TEMPLATES, plain_class_name
from ui.addresses import address, fits_address, mark_view, read_address
from ui.common import (
    BUSY_EVENT,
    LAST_COUNTS,
    SILENT_EVENT,
    api_error_box,
    file_inputs,
    first_choice,
    html_pane,
    unreachable_box,
    update_dropdown,
)
from ui.html import PICK_SCRIPT, empty_state, error_box, esc, heading, html_table, item_url, plural, skipped_box
from ui.image_uploads import (
    MAX_IMAGES,
    ImageUploadError,
    UploadedImage,
    find_images,
    read_images,
    thumbnail,
    unique_names,
)
from ui.ranking import collection_choices, encoder_choices, last_used, rank_encoders, used_script

CAPTION, CLASSIFY = "caption", "classify"
ACTIONS = {CAPTION: "Write captions", CLASSIFY: "Classify"}
DEFAULT_TEMPLATES = "\n".join(PLAIN_TEMPLATES)
MAX_PROMPTS = 5000  # classes times templates
MAX_NAME = 200  # characters of a class or template
SAMPLE_IMAGES = 8  # offered
CAPTIONED_AT_ONCE = 8  # images of one request
EXAMPLE_LABELS = ("group", "category", "subgroup")  # labels with few values, first
EXAMPLES, EXAMPLE_CLASSES, IMAGES_PER_CLASS = 3, 8, 3
EXAMPLE_PARTS, EXAMPLE_ITEMS = 8, 50  # parts of the collection, and images of each, from which examples are taken
FIELD_PARAMETERS = {"do", "sample", "classes", "templates"}  # of an address
# On a narrow screen the results are below the form.
REVEAL_SCRIPT = """() => {
  const results = document.querySelector('#try-results');
  if (results.getBoundingClientRect().top > innerHeight / 2) results.scrollIntoView();
}"""
INVITATION = empty_state(
    "What an encoder says of your images", f"Drop up to {MAX_IMAGES} images, or take one of the examples."
)
NO_ENCODER = empty_state("No encoder yet", "Submit a pre-training run in the Runs tab, and try its encoder here.")
NO_IMAGES = empty_state("Choose images first", "Drop images or a zip into the field, or choose a folder.")
NO_CLASSES = empty_state("Name the classes first", "At least two, one a line: for example “dog” and “cat”.")


def parse_lines(text: str, what: str) -> tuple[list[str], list[str]]:
    """Lines that are not empty, each once, and what was left out, as sentences. ``what``: a line is."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    notes = [f"{what} “{line}” is given {count} times." for line, count in Counter(lines).items() if count > 1]
    long = [line for line in dict.fromkeys(lines) if len(line) > MAX_NAME]
    notes += [f"{what} “{line[:40]} …” is longer than {MAX_NAME} characters and left out." for line in long]
    return [line for line in dict.fromkeys(lines) if line not in long], notes


def parse_templates(text: str) -> tuple[list[str], list[str]]:
    """Lines with ``{}``, and what was left out, as sentences."""
    lines, notes = parse_lines(text, "Template")
    notes += [f"Template “{line}” has no {{}} for the class and is left out." for line in lines if "{}" not in line]
    return [line for line in lines if "{}" in line], notes


def find_examples(client: Client, encoders: Sequence[Json] | None = None) -> list[CollectionClasses]:
    """Lists of classes out of the labels of the first collection, with some of its images. Raises: ApiError."""
    collection = first_choice(collection_choices(client, encoders))
    if collection is None:
        return []
    of_label: dict[str, dict[str, list[tuple[str, str]]]] = defaultdict(lambda: defaultdict(list))
    count = client.collection(collection)["images"]
    for offset in range(0, count, max(EXAMPLE_ITEMS, count // EXAMPLE_PARTS)):
        for item in client.items(collection, offset, EXAMPLE_ITEMS):
            for label, value in item["labels"].items():
                of_label[label][value].append((item["id"], item["caption"] or item["id"]))
    labels = [label for label in of_label if len(of_label[label]) > 1]
    labels.sort(key=lambda label: (label not in EXAMPLE_LABELS, len(of_label[label])))
    return [_example(collection, label, of_label[label]) for label in labels[:EXAMPLES]]


def _example(collection: str, label: str, values: dict[str, list[tuple[str, str]]]) -> CollectionClasses:
    classes = sorted(values, key=lambda value: (-len(values[value]), value))[:EXAMPLE_CLASSES]
    # named as in an upload: the folder is the label
    items = tuple(
        (item, Path(_file_name(value), _file_name(caption)))
        for value in classes
        for item, caption in values[value][:IMAGES_PER_CLASS]
    )
    return CollectionClasses(collection, label, tuple(map(plain_class_name, classes)), items)


def _file_name(words: str) -> str:
    return words.replace("/", "-")[:MAX_NAME]


class OpenedForm(NamedTuple):
    """Updates of the components that an address changes."""

    encoder: Any = gr.skip()
    task: Any = gr.skip()
    files: Any = gr.skip()
    sample: Any = gr.skip()
    classes: Any = gr.skip()
    templates: Any = gr.skip()
    examples: Any = gr.skip()
    view: Any = gr.skip()
    results: Any = gr.skip()


class InferenceTab:
    title = "Try"

    def __init__(self, client: Client) -> None:
        self.client = client

    def build(self) -> None:
        self.sample = gr.State("")  # of the examples, whose images are used; empty: the uploaded ones
        self.view = html_pane(elem_id="try-view")
        with gr.Row(equal_height=False, elem_classes="lcl-columns"):
            with gr.Column(scale=4, min_width=300, elem_classes="lcl-panel"):
                self.task = gr.Radio(
                    [(name.title(), name) for name in ACTIONS], value=CAPTION, show_label=False, label="Task",
                    container=False, elem_classes="lcl-segment",
                )  # fmt: skip
                self.encoder = gr.Dropdown(label="Encoder")
                self.files, self.folder = file_inputs("Images, or a zip of images", "try")
                self.examples = html_pane(js_on_load=PICK_SCRIPT, elem_id="try-examples")
                self.classes = gr.Textbox(
                    "", label="Classes, one a line", placeholder="dog\ncat\nhouse", lines=5, max_lines=12,
                    visible=False, elem_id="try-classes", info="Folders of these names give the accuracy.",
                )  # fmt: skip
                with gr.Accordion("More", open=False):
                    self.templates = gr.Textbox(
                        DEFAULT_TEMPLATES, label="Templates, one a line", lines=5, max_lines=12, visible=False,
                        info="{} is the class; several are averaged", elem_id="try-templates",
                    )  # fmt: skip
                    self.context = gr.Textbox(
                        "", label="Text before the image", lines=2, max_lines=6, elem_id="try-context",
                        placeholder="what a document would say before it",
                    )  # fmt: skip
                    self.prompt = gr.Textbox(
                        "", label="Caption prefix", placeholder="words that the caption starts with", max_lines=1
                    )
                    self.length = gr.Slider(4, 64, 24, step=1, label="Max tokens")
                    self.beams = gr.Slider(1, 8, 4, step=1, label="Beam width", info="1: the likeliest token each time")
                self.go = gr.Button(ACTIONS[CAPTION], variant="primary")
            with gr.Column(scale=6, min_width=300):
                self.results = html_pane(INVITATION, elem_id="try-results")

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        form = [self.encoder, self.task, self.files, self.sample, self.classes, self.templates]
        options = [self.context, self.prompt, self.length, self.beams]
        shown = [self.view, self.results]
        opened = [*form, self.examples, *shown]
        for event, handle in ((tab.select, self.open_link), (navigation.select, self.open_address)):
            event(handle, form, opened, **SILENT_EVENT | LAST_COUNTS)
        self.encoder.input(None, self.encoder, js=used_script("encoder"))
        self.task.change(
            self.show_task, self.task,
            [self.classes, self.templates, *options, self.go, self.examples], **SILENT_EVENT | LAST_COUNTS,
        )  # fmt: skip
        run: dict[str, Any] = {"fn": self.run, "inputs": [*form, *options], "outputs": shown}
        for trigger in (self.go.click, self.classes.submit, self.templates.submit, self.prompt.submit):
            trigger(**run, **BUSY_EVENT | LAST_COUNTS).then(None, js=REVEAL_SCRIPT)
        uploads = [self.files, self.sample, self.classes]
        for field in (self.files, self.folder):
            field.upload(self.use_files, [field, self.classes], uploads, **SILENT_EVENT).then(
                **run, **BUSY_EVENT | LAST_COUNTS
            )
        self.examples.select(self.use_example, outputs=uploads, **SILENT_EVENT).then(
            **run, **BUSY_EVENT | LAST_COUNTS
        ).then(None, js=REVEAL_SCRIPT)

    def show_task(self, task: str) -> tuple[Any, ...]:
        """The fields of a task, and its examples."""
        classifies = task == CLASSIFY
        try:
            examples = self._draw_examples(task)
        except ApiError:
            examples = gr.skip()
        fields = [gr.update(visible=shown) for shown in (classifies, classifies, *(not classifies,) * 4)]
        return *fields, gr.update(value=ACTIONS[task]), examples

    def _draw_examples(self, task: str, ranked: Sequence[Json] | None = None, chosen: str = "") -> str:
        if task == CLASSIFY:
            return draw_examples(find_examples(self.client, ranked), chosen)
        collection = first_choice(collection_choices(self.client, ranked))
        return (
            "" if collection is None else draw_samples(collection, self.client.items(collection, limit=SAMPLE_IMAGES))
        )

    def open_link(self, request: gr.Request, *form: Any) -> OpenedForm:
        """As ``open_address``, when the tab is opened: the fields stay unless the address has a value of one."""
        return self._open(request, not FIELD_PARAMETERS.isdisjoint(read_address(request, "try")), *form)

    def open_address(self, request: gr.Request, *form: Any) -> OpenedForm:
        """Encoders and examples, and what the address says; without an encoder no opening has succeeded yet."""
        return self._open(request, True, *form) if form[0] else self.open_link(request, *form)

    def _open(
        self,
        request: gr.Request,
        writes: bool,
        encoder: str | None,
        task: str,
        files: list[str] | None,
        sample: str,
        classes: str,
        templates: str,
    ) -> OpenedForm:
        """``writes``: what the address says of the fields, too."""
        address = read_address(request, "try")
        wanted_task = address.get("do", CAPTION) if writes and address.get("do", CAPTION) in ACTIONS else task
        try:
            ranked = rank_encoders(self.client)
            choices = encoder_choices(self.client, ranked)
            examples = self._draw_examples(wanted_task, ranked, address.get("sample", sample))
        except ApiError as error:
            return OpenedForm(results=gr.skip() if encoder else unreachable_box(error, reopens=True))
        wanted = address.get("encoder") or encoder or last_used(request, "encoder")
        opened = OpenedForm(encoder=update_dropdown(choices, encoder, wanted), examples=examples)
        if not choices:
            return opened._replace(results=NO_ENCODER)
        known = {value for _, value in choices}
        if address.get("encoder") and wanted not in known:
            return opened._replace(results=error_box(f"There is no encoder {wanted!r}.", "Not found"))
        fields = (address.get("sample", ""), address.get("classes", ""), address.get("templates", DEFAULT_TEMPLATES))
        lists = [parse_lines(text, "")[0] for text in (classes, templates, *fields[1:])]
        is_shown = (task, sample, *lists[:2]) == (wanted_task, fields[0], *lists[2:])
        own = {"classes": classes, "templates": templates}
        too_long = any(name not in address and not fits_address(text) for name, text in own.items())
        if not writes or not address or is_shown or too_long:
            return opened
        chosen = wanted if wanted in known else first_choice(choices)
        drawn = self.run(chosen, wanted_task, files if not fields[0] else None, *fields)
        return OpenedForm(opened.encoder, wanted_task, gr.skip(), *fields, examples, *drawn)

    def run(
        self,
        encoder: str | None,
        task: str,
        files: list[str] | None,
        sample: str,
        classes: str,
        templates: str,
        context: str = "",
        prompt: str = "",
        length: int = 24,
        beams: int = 4,
    ) -> tuple[str, str]:
        """Captions or classes of the images. Returns: view, results."""
        view = self.mark(encoder, task, sample, classes, templates)
        if not files and not sample:
            return view, NO_IMAGES if classes.strip() or task == CAPTION else INVITATION
        try:
            encoder = encoder or first_choice(encoder_choices(self.client))
            if encoder is None:
                return view, NO_ENCODER
            images, skipped, about = self._images(task, files, sample)
            if task == CAPTION:
                texts = {name: text for name, text in (("prompt", prompt), ("context", context)) if text.strip()}
                return view, self._caption(encoder, images, skipped, int(length), int(beams), **texts)
            return view, self._classify(encoder, images, skipped, about, classes, templates)
        except ApiError as error:
            return view, api_error_box(error, "The images were refused")
        except UserError as error:
            return view, error_box(error.message, "The classes cannot be used")

    def _caption(
        self, encoder: str, images: list[UploadedImage], skipped: list[Skipped], length: int, beams: int, **texts: str
    ) -> str:
        """Several images a request, fewer where they are too large; one that cannot be read is left out alone."""
        left, at_once = list(read_images(images, skipped)), CAPTIONED_AT_ONCE
        options = {"max_new_tokens": length, "num_beams": beams, **texts}
        captions: list[tuple[Path, str, str]] = []
        while left:
            batch = left[:at_once]
            try:
                found = self.client.caption(encoder, [data for _, data in batch], **options)
            except ApiError as error:
                number = (error.field or "").removeprefix("images.")
                if number.isdecimal():
                    name, _ = left.pop(int(number))
                    skipped.append(Skipped(name, error.message.removeprefix(f"{error.field}: ")))
                elif len(batch) > 1 and (error.status == 413 or error.code == TOO_MANY):
                    at_once = len(batch) // 2
                else:
                    raise
                continue
            captions += [(name, thumbnail(data), text) for (name, data), text in zip(batch, found, strict=True)]
            del left[: len(batch)]
        return draw_captions(captions, skipped)

    def _classify(
        self,
        encoder: str,
        images: list[UploadedImage],
        skipped: list[Skipped],
        about: str,
        classes: str,
        templates: str,
    ) -> str:
        names, notes = parse_lines(classes, "Class")
        prompts, template_notes = parse_templates(templates)
        if len(names) < 2:
            return NO_CLASSES
        if not prompts:
            problem = "Give at least one template with {} for the class, such as “a drawing of {}”."
            return error_box(problem, "The templates cannot be used")
        if len(names) * len(prompts) > MAX_PROMPTS:
            problem = f"{len(names)} classes in {len(prompts)} templates are more than {MAX_PROMPTS} texts; give fewer."
            return error_box(problem, "The templates cannot be used")
        start = time.perf_counter()
        read = dict(read_images(images, skipped))
        result = self.client.zero_shot(encoder, list(read.items()), names, prompts)
        result.skipped[:0] = skipped
        seconds = time.perf_counter() - start
        thumbnails = {index: thumbnail(read[name]) for index, name in enumerate(result.names)}
        return draw_result(result, thumbnails, about, [*notes, *template_notes], seconds)

    def mark(self, encoder: str | None, task: str, sample: str, classes: str, templates: str) -> str:
        """The address of what the form says; lists that are too long for one are left out."""
        if task == CAPTION:
            return mark_view("", encoder=encoder, sample=sample)
        names = parse_lines(classes, "Class")[0]
        title = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
        own = "" if templates == DEFAULT_TEMPLATES else templates
        fields = {"classes": "\n".join(names), "templates": own}
        return mark_view("", title, do=CLASSIFY, encoder=encoder, sample=sample, **fields)

    def use_files(self, paths: list[str] | None, classes: str) -> tuple[Any, str, Any]:
        """Files, sample and classes: uploads in place of an example, their folders as classes if none are named."""
        images, _ = find_images(paths or (), Path(get_upload_folder()))
        folders = sorted({label for label in folder_labels([image.name for image in images]) if label})
        named = "\n".join(map(plain_class_name, folders)) if len(folders) > 1 and not classes.strip() else gr.skip()
        return paths, "", named

    def use_example(self, event: gr.EventData) -> tuple[Any, ...]:
        """An image, or images and classes of an example. Returns: files, sample, classes."""
        pick = str(event.pick)
        if ":" in pick:
            return None, pick, gr.skip()
        try:
            example = self._example(pick)
        except ApiError:
            example = None  # the run says why
        return None, pick, "\n".join(example.classes) if example else gr.skip()

    def _images(
        self, task: str, files: list[str] | None, sample: str
    ) -> tuple[list[UploadedImage], list[Skipped], str]:
        """Images, files left out, and where the images are from. Raises: ApiError."""
        if not sample:
            return *find_images(files or (), Path(get_upload_folder())), "of yours"
        about = "of the collection (the encoder may have been trained on them)"
        collection, _, item = sample.partition(":")
        if item:
            return [UploadedImage(Path(item), partial(_fetch_item, self.client, collection, item))], [], about
        example = self._example(sample)
        if example is None:
            raise ApiError(404, "not_found", f"there is no example {sample!r}; choose images, or another example")
        fetch = partial(_fetch_item, self.client, example.collection)
        images = [UploadedImage(name, partial(fetch, item)) for item, name in example.items]
        return unique_names(images), [], about

    def _example(self, label: str) -> CollectionClasses | None:
        return next((each for each in find_examples(self.client) if each.label == label), None)


def _fetch_item(client: Client, collection: str, item: str) -> bytes:
    try:
        return client.item_image(collection, item)
    except ApiError as error:
        raise ImageUploadError(error.message) from error


SHOWN_CLASSES = 3  # of an image
LARGEST_CONFUSION = 30  # classes
EXAMPLE_CLASSES = 4  # of a list, in words


@dataclass(frozen=True)
class CollectionClasses:
    """Values of a label of a collection, and id and name of each image, in whose folder its class is."""

    collection: str
    label: str
    classes: tuple[str, ...]
    items: tuple[tuple[str, Path], ...]


def draw_examples(examples: Sequence[CollectionClasses], chosen: str = "") -> str:
    """One button for each list of classes; the label that is ``chosen`` is marked."""
    if not examples:
        return ""
    buttons = "".join(
        f'<li><button type="button" data-pick="{esc(each.label)}"{" aria-current=true" * (each.label == chosen)}>'
        f"<b>{esc(each.label)}</b>"
        f"<span>{esc(', '.join(each.classes[:EXAMPLE_CLASSES]))}"
        f"{' …' if len(each.classes) > EXAMPLE_CLASSES else ''}</span>"
        f"<small>{len(each.items)} images</small></button></li>"
        for each in examples
    )
    return f'<p class="lcl-note">or an example</p><ul class="lcl-examples" aria-label="Examples">{buttons}</ul>'


def draw_samples(collection: str, items: Sequence[Json]) -> str:
    """One button for each image."""
    buttons = "".join(
        f'<li><button type="button" data-pick="{esc(collection)}:{esc(item["id"])}" '
        f'aria-label="Use the image {esc(item["caption"] or item["id"])}">'
        f'<img src="{esc(item_url(collection, item["id"]))}" alt="" loading="lazy"></button></li>'
        for item in items
    )
    return f'<p class="lcl-note">or one of these</p><ul class="lcl-samples">{buttons}</ul>' if items else ""


def draw_captions(captions: Sequence[tuple[Path, str, str]], skipped: Sequence[Skipped]) -> str:
    """A row for each image. ``captions``: name, address of a small image, and caption."""
    rows = "".join(
        f'<tr>{_image_cells(name, image)}<td class="lcl-caption">'
        + (f'{esc(text)} <a href="{esc(address(q=text))}">Search with it</a>' if text else "<em>no words</em>")
        + "</td></tr>"
        for name, image, text in captions
    )
    table = html_table("Captions", ("Image", "Name", "Caption"), rows, "zero") if captions else ""
    return f'<section class="lcl-zero" role="status">{skipped_box(skipped)}{table}</section>'


def draw_result(
    result: ZeroShotResult, thumbnails: Mapping[int, str], about: str, notes: Sequence[str], seconds: float
) -> str:
    """Accuracy where there are labels, and predictions. ``about``: whose images; ``notes``: what was left out."""
    labels = folder_labels(result.names)
    accuracy = label_accuracy(result, labels)
    remarks = [*notes, *_label_notes(result, labels, accuracy)]
    listed = "".join(f"<li>{esc(note)}</li>" for note in remarks)
    notes_list = f'<ul class="lcl-remarks" role="status">{listed}</ul>' if listed else ""
    predictions = base64.b64encode(predictions_csv(result).encode()).decode("ascii")
    download = (
        f'<a class="lcl-csv" href="data:text/csv;base64,{predictions}" download="predictions.csv">'
        "Download predictions.csv</a>"
    )
    head = heading(
        "Predictions",
        f"{plural(len(result.names), 'image')} {about} · {len(result.classes)} classes · "
        f"{plural(len(result.templates), 'template')} · {seconds:.1f} s. "
        "It must choose one of your classes.",
    )
    return (
        f'<section class="lcl-zero" aria-label="Predictions" aria-busy="false">{head}{download * bool(result.names)}'
        f"{_draw_accuracy(accuracy) if accuracy else ''}{notes_list}"
        f"{skipped_box(result.skipped)}{_draw_predictions(result, labels, thumbnails)}"
        f"{_draw_confusion(result.classes, accuracy) if accuracy else ''}</section>"
    )


def _draw_accuracy(accuracy: LabeledAccuracy) -> str:
    """The share of correct predictions, beside chance; in red if it is not clearly above."""
    low, high = accuracy.interval
    worse = low <= accuracy.chance
    words = "not clearly above chance" if worse else f"{accuracy.value / accuracy.chance:.1f} × chance"
    return (
        f'<div class="lcl-accuracy{" lcl-accuracy--poor" * worse}" role="status"><b>{accuracy.value:.3f}</b>'
        f"<dl><div><dt>Accuracy</dt><dd>{accuracy.correct} of {accuracy.count} images with a label</dd></div>"
        f"<div><dt>95 % interval</dt><dd>[{low:.3f}, {high:.3f}]</dd></div>"
        f"<div><dt>Chance</dt><dd>{accuracy.chance:.3f}</dd></div></dl><em>{words}</em></div>"
    )


def _label_notes(result: ZeroShotResult, labels: Sequence[str], accuracy: LabeledAccuracy | None) -> list[str]:
    """Folders that are none of the classes, where that matters for the accuracy."""
    places = match_labels(result.classes, labels)
    others = list(dict.fromkeys(label for label, place in zip(labels, places, strict=True) if label and place is None))
    if not others or (accuracy is None and len(others) < 2):
        return []
    names = ", ".join(others[:8]) + (" …" if len(others) > 8 else "")
    effect = f"{accuracy.left_out} images are left out of the accuracy" if accuracy else "so there is no accuracy"
    return [f"Folders that are none of the classes: {names}; {effect}."]


def _draw_predictions(result: ZeroShotResult, labels: Sequence[str], thumbnails: Mapping[int, str]) -> str:
    if not result.names:
        return empty_state("No image could be classified", "Choose PNG, JPEG, WebP or GIF files.")
    places = match_labels(result.classes, labels)
    has_labels = any(place is not None for place in places)
    rows = "".join(
        _prediction_row(result, index, place, has_labels, thumbnails.get(index, ""))
        for index, place in enumerate(places)
    )
    columns = ("Image", "Name", "Likeliest classes", *(("Label",) if has_labels else ()))
    return html_table("Predictions of each image", columns, rows, "zero")


def _prediction_row(result: ZeroShotResult, index: int, place: int | None, has_labels: bool, image: str) -> str:
    best = result.top(index, SHOWN_CLASSES)
    bars = "".join(
        f"<li><span>{esc(name)}</span><i><b style='width:{100 * probability:.1f}%'></b></i>"
        f"<em>{probability:.3f}</em></li>"
        for name, probability in best
    )
    name = result.names[index]
    folder = ""
    if has_labels:
        right = place is not None and result.classes[place] == best[0][0]
        mark = "" if place is None else "correct" if right else "wrong"
        sign = {"correct": "✓", "wrong": "✗", "": ""}[mark]
        folder = f'<td class="lcl-mark--{mark or "none"}">{sign} {esc(name.parent.name)}<small>{mark}</small></td>'
    return f'<tr>{_image_cells(name, image)}<td><ol class="lcl-likely">{bars}</ol></td>{folder}</tr>'


def _image_cells(name: Path, image: str) -> str:
    small = f'<img src="{esc(image)}" alt="" loading="lazy">' if image else "<i></i>"
    return f'<td>{small}</td><th scope="row">{esc(name.name)}</th>'


def _draw_confusion(classes: Sequence[str], accuracy: LabeledAccuracy) -> str:
    """Images of each class by predicted class; a fuller cell is darker."""
    title = heading("Confusion", "Rows: the label, which is the folder of the images. Columns: the predicted class.")
    if len(classes) > LARGEST_CONFUSION:
        return (
            f'{title}<p class="lcl-note">Drawn for up to {LARGEST_CONFUSION} classes; the file has all predictions.</p>'
        )
    body = ""
    for place, (name, row) in enumerate(zip(classes, accuracy.confusion.tolist(), strict=True)):
        total = sum(row)
        cells = "".join(
            f'<td class="{"lcl-hit" if column == place else "lcl-miss"}" style="--share:{count / max(1, total):.3f}" '
            f'title="{esc(name)} taken for {esc(classes[column])}: {count} of {total}">{count or ""}</td>'
            for column, count in enumerate(row)
        )
        body += f'<tr><th scope="row">{esc(name)}</th>{cells}<td>{total}</td></tr>'
    return title + html_table("Confusion matrix", ("", *classes, "images"), body, "confusion")
