"""Try tab: what an encoder says of a visitor's own images: captions, or the nearest of the classes that one names."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from api.client import ApiError, Client, UserError
from api.client.inference import IMAGE_ERRORS
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
    file_paths,
    first_choice,
    html_pane,
    unreachable_box,
    update_dropdown,
)
from ui.figures import interval_text, metric_text
from ui.html import empty_state, error_box, esc, fold, html_table, item_url, plural, skipped_box
from ui.image_uploads import (
    MAX_IMAGES,
    UploadedImage,
    find_images,
    read_images,
    thumbnail,
    unique_names,
)
from ui.ranking import collection_choices, encoder_choices, last_used, rank_encoders, used_script
from ui.tabs.search_query import filter_labels

CAPTION, CLASSIFY = "caption", "classify"
ACTIONS = {CAPTION: "Write captions", CLASSIFY: "Classify"}
PARAMETERS = ("do", "encoder", "sample", "classes", "templates")  # of an address
DEFAULT_TEMPLATES = "\n".join(PLAIN_TEMPLATES)
ACCURACY = "acc@1"
SHOWN_CLASSES = 3  # of an image
MAX_PROMPTS = 5000  # classes times templates
LARGEST_CONFUSION = 30  # classes
SAMPLE_IMAGES = 6  # offered
EXAMPLES, EXAMPLE_CLASSES, IMAGES_PER_CLASS = 3, 8, 3
EXAMPLE_PARTS, EXAMPLE_ITEMS = 8, 50  # parts of the collection, and images of each, from which an example is taken
# On a narrow screen the results are below the form.
REVEAL_SCRIPT = """() => {
  const results = document.querySelector('#try-results');
  if (results.getBoundingClientRect().top > innerHeight / 2) results.scrollIntoView();
}"""
INVITATION = (
    f'<p class="lcl-note" role="status">Drop up to {MAX_IMAGES} images, or a zip whose folders are classes, '
    "or use one of these.</p>"
)
NO_ENCODER = empty_state("No encoder yet", "Submit a pre-training run in the Runs tab, and try its encoder here.")
NO_IMAGES = empty_state("Choose images first", "Drop images or a zip into the field, or use an example.")


class PlaygroundTab:
    title = "Try"

    def __init__(self, client: Client) -> None:
        self.client = client

    def build(self) -> None:
        self.shown = gr.State(None)  # parameters of the address that was opened or written last
        with gr.Row(elem_classes="lcl-narrowing"):
            self.task = gr.Radio(
                [(name.title(), name) for name in ACTIONS], value=CAPTION, show_label=False, label="Task",
                container=False, elem_classes="lcl-segment",
            )  # fmt: skip
            self.encoder = gr.Dropdown(label="Encoder", show_label=False, min_width=200)
            with gr.Accordion("More", open=False, elem_classes="lcl-more-options"):
                self.context = gr.Textbox("", label="Text before the image", max_lines=6, elem_id="try-context")
                self.prompt = gr.Textbox("", label="The caption begins with", max_lines=1)
                self.beams = gr.Slider(1, 8, 4, step=1, label="Beam width", info="1: the likeliest token each time")
                self.templates = gr.Textbox(
                    DEFAULT_TEMPLATES, label="Templates, one a line", lines=5, max_lines=12, visible=False,
                    info="{} is the class; several are averaged", elem_id="try-templates",
                )  # fmt: skip
        with gr.Row(elem_classes="lcl-given"):
            self.files = gr.File(label="Images, or a zip", file_count="multiple", height=120, elem_id="try-files")
            self.files.preprocess = file_paths  # type: ignore[method-assign]
            self.classes = gr.Textbox(
                "", label="Classes, one a line", placeholder="dog\ncat\nhouse", lines=3, max_lines=4, visible=False,
                elem_id="try-classes",
            )  # fmt: skip
            self.go = gr.Button(ACTIONS[CAPTION], variant="primary", min_width=160)
        self.view = html_pane(elem_id="try-view")
        self.results = html_pane(INVITATION, elem_id="try-results")
        self.examples = html_pane(elem_id="try-examples")

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        form = [self.encoder, self.task, self.files, self.classes, self.templates]
        options = [self.context, self.prompt, self.beams]
        answer = [self.shown, self.classes, self.view, self.results]
        opened = [*form, self.examples, self.shown, self.view, self.results]
        for event in (tab.select, navigation.select):
            event(self.open, [self.shown, *form], opened, **SILENT_EVENT | LAST_COUNTS)
        self.encoder.input(None, self.encoder, js=used_script("encoder"))
        fields = [self.classes, self.templates, *options, self.go, self.examples]
        self.task.change(self.show_task, self.task, fields, **SILENT_EVENT | LAST_COUNTS)
        gr.on(
            [self.go.click, self.classes.submit, self.templates.submit, self.prompt.submit, self.files.upload],
            self.run, [self.shown, *form, *options], answer, **BUSY_EVENT | LAST_COUNTS,
        ).then(None, js=REVEAL_SCRIPT)  # fmt: skip

    def show_task(self, task: str) -> tuple[Any, ...]:
        """The fields of a task, and its examples."""
        try:
            examples = self.draw_examples(task, first_choice(collection_choices(self.client)))
        except ApiError:
            examples = gr.skip()
        fields = [gr.update(visible=(task == CLASSIFY) == classifies) for classifies in (True, True, *(False,) * 3)]
        return *fields, gr.update(value=ACTIONS[task]), examples

    def draw_examples(self, task: str, collection: str | None, chosen: str = "") -> str:
        """Images, or lists of classes, of a collection as links; the ``chosen`` one is marked. Raises: ApiError."""
        if collection is None:
            return ""
        if task == CLASSIFY:
            style, todo = "lcl-examples", CLASSIFY
            inside = {
                label: f"<b>{esc(label)}</b> {esc(', '.join(classes))}"
                for label, classes in class_lists(self.client.collection(collection)).items()
            }
        else:
            style, todo = "lcl-samples", None
            inside = {
                f"{collection}:{item['id']}": f'<img src="{esc(item_url(collection, item["id"]))}" loading="lazy" '
                f'alt="Use the image {esc(item["caption"] or item["id"])}">'
                for item in self.client.items(collection, limit=SAMPLE_IMAGES)
            }
        links = "".join(
            f'<li><a href="{esc(address(tab="try", do=todo, sample=sample))}"'
            f"{' aria-current=true' * (sample == chosen)}>{drawn}</a></li>"
            for sample, drawn in inside.items()
        )
        return f'<ul class="{style}" aria-label="Examples">{links}</ul>'

    def open(
        self,
        shown: dict[str, str] | None,
        encoder: str | None,
        task: str,
        files: list[str] | None,
        classes: str,
        templates: str,
        request: gr.Request,
    ) -> tuple[Any, ...]:
        """Encoders, examples, and what another address than that on show says. Without one the fields stay.

        Returns: encoder, task, files, classes, templates, examples, shown, view, results.
        """
        asked = read_address(request, "try")
        wanted = {name: asked[name] for name in PARAMETERS if name in asked}
        stays = shown is not None and (not asked or wanted == shown)
        if not stays:
            task = CLASSIFY if wanted.get("do") == CLASSIFY else CAPTION
        sample = (shown or {} if stays else wanted).get("sample", "")
        try:
            ranked = rank_encoders(self.client)
            choices = encoder_choices(self.client, ranked)
            examples = self.draw_examples(task, first_choice(collection_choices(self.client, ranked)), sample)
        except ApiError as error:
            return *(gr.skip(),) * 8, gr.skip() if shown else unreachable_box(error, reopens=True)
        known = {name: each["id"] for each in ranked for name in (each["name"], each["id"])}
        chosen = known.get(wanted.get("encoder") or encoder or last_used(request, "encoder") or "")
        menu = update_dropdown(choices, encoder, chosen)
        if stays:
            return menu, *(gr.skip(),) * 4, examples, *(gr.skip(),) * 3
        fields = (task, *(gr.skip(),) * 3) if not wanted else (
            task, None, wanted.get("classes", ""), wanted.get("templates", DEFAULT_TEMPLATES)
        )  # fmt: skip
        view = mark_view("", **wanted)
        if not choices or ("encoder" in wanted and chosen is None):
            lost = error_box(f"There is no encoder {wanted.get('encoder')!r}.", "Not found") if choices else NO_ENCODER
            return menu, *fields, examples, wanted, view, lost
        if not sample:
            return menu, *fields, examples, wanted, view, INVITATION
        id = chosen or first_choice(choices)
        _, named, _, drawn = self.run(wanted, id, task, None, fields[2], fields[3])
        view = mark_view("", ", ".join(named.splitlines()[:3]), **wanted)
        return menu, task, None, named, fields[3], examples, wanted, view, drawn

    def run(
        self,
        shown: dict[str, str] | None,
        encoder: str | None,
        task: str,
        files: list[str] | None,
        classes: str,
        templates: str,
        context: str = "",
        prompt: str = "",
        beams: int = 4,
    ) -> tuple[Any, ...]:
        """Captions or classes of the images: the uploaded ones, else those of the example that is ``shown``.

        Returns: shown, classes, view, results.
        """
        sample = "" if files else (shown or {}).get("sample", "")
        if task == CAPTION and ":" not in sample:  # one of the lists of classes
            sample = ""
        names = list(dict.fromkeys(name.strip() for name in classes.splitlines() if name.strip()))
        try:
            encoder = encoder or first_choice(encoder_choices(self.client))
            images, skipped, labels = self._images(files, sample)
            names = names or labels
            drawn = NO_ENCODER if encoder is None else NO_IMAGES
            if encoder and (images or skipped):
                read = read_images(images, skipped)
                if task == CAPTION:
                    texts = {name: text for name, text in (("prompt", prompt), ("context", context)) if text.strip()}
                    drawn = self.caption(encoder, read, skipped, num_beams=int(beams), **texts)
                else:
                    lines = [line.strip() for line in templates.splitlines() if line.strip()]
                    if len(names) * len(lines) > MAX_PROMPTS:
                        raise UserError(f"these are more than {MAX_PROMPTS} texts in all; give fewer", field="classes")
                    drawn = self.classify(encoder, dict(read), skipped, names, lines)
        except ApiError as error:
            drawn = api_error_box(error, "The images were refused")
        except UserError as error:
            drawn = error_box(error.message, "The classes cannot be used")
        parameters: dict[str, Any] = {"encoder": encoder, "sample": sample}
        if task == CLASSIFY:
            own = "" if templates == DEFAULT_TEMPLATES else templates
            parameters |= {"do": CLASSIFY, "classes": "\n".join(names), "templates": own}
        kept = {name: value for name, value in parameters.items() if value and fits_address(value)}
        return kept, "\n".join(names), mark_view("", ", ".join(names[:3]) * (task == CLASSIFY), **kept), drawn

    def caption(self, encoder: str, images: Any, skipped: list[Skipped], **options: Any) -> str:
        """A caption of each image. ``images``: names and bytes; those that cannot be read are added to ``skipped``."""
        rows = []
        for name, data in images:
            try:
                (text,) = self.client.caption(encoder, [data], **options)
            except ApiError as error:
                if error.code not in IMAGE_ERRORS:
                    raise
                skipped.append(Skipped(name, error.message.removeprefix(f"{error.field}: ")))
                continue
            said = f'{esc(text)} <a href="{esc(address(q=text))}">Search with it</a>' if text else "<em>no words</em>"
            rows.append(f'<tr>{_image_cell(name, data)}<td class="lcl-caption">{said}</td></tr>')
        table = html_table("Captions", ("Image", "Caption"), "".join(rows), "zero") if rows else ""
        return f'<section class="lcl-zero" role="status">{skipped_box(skipped)}{table}</section>'

    def classify(
        self,
        encoder: str,
        images: dict[Path, bytes],
        skipped: list[Skipped],
        classes: Sequence[str],
        templates: Sequence[str],
    ) -> str:
        """The likeliest classes of each image. Raises: ApiError; UserError for classes or templates."""
        result = self.client.zero_shot(encoder, list(images.items()), classes, templates)
        result.skipped[:0] = skipped
        return draw_result(result, images)

    def _images(self, files: list[str] | None, sample: str) -> tuple[list[UploadedImage], list[Skipped], list[str]]:
        """Images, files left out, and the labels of the images as classes. Raises: ApiError."""
        if not sample:
            images, skipped = find_images(files or (), Path(get_upload_folder()))
            folders = sorted({label for label in folder_labels([image.name for image in images]) if label})
            return images, skipped, list(map(plain_class_name, folders))
        collection, _, item = sample.partition(":")
        if item:
            name = Path((next(iter(self.client.item(collection, item)["captions"]), "") or item).replace("/", "-"))
            return [UploadedImage(name, partial(_fetch_item, self.client, collection, item))], [], []
        first = first_choice(collection_choices(self.client))
        if first is None:
            return [], [], []
        found = self.client.collection(first)
        classes = class_lists(found).get(sample, [])
        images = unique_names(self._labelled_images(first, found["images"], sample, classes))
        return images, [], list(map(plain_class_name, classes))

    def _labelled_images(self, collection: str, count: int, label: str, classes: Sequence[str]) -> list[UploadedImage]:
        """Some images of each class, named as in an upload: the folder is the label. Raises: ApiError."""
        found: dict[str, list[UploadedImage]] = {name: [] for name in classes}
        for offset in range(0, count, max(EXAMPLE_ITEMS, count // EXAMPLE_PARTS)):
            for item in self.client.items(collection, offset, EXAMPLE_ITEMS):
                value, caption = item["labels"].get(label, ""), item["caption"] or item["id"]
                name = Path(value.replace("/", "-"), caption.replace("/", "-"))
                if value in found and len(found[value]) < IMAGES_PER_CLASS:
                    found[value].append(UploadedImage(name, partial(_fetch_item, self.client, collection, item["id"])))
        return [image for images in found.values() for image in images]


def class_lists(collection: Json) -> dict[str, list[str]]:
    """{label: its commonest values}, of a few labels of the collection with several values."""
    labels = {label: counts for label, counts in filter_labels(collection).items() if label not in ("split", "source")}
    commonest = {label: sorted(counts, key=lambda value: -counts[value]) for label, counts in labels.items()}
    return {label: commonest[label][:EXAMPLE_CLASSES] for label in list(commonest)[:EXAMPLES]}


def _fetch_item(client: Client, collection: str, item: str) -> bytes:
    try:
        return client.item_image(collection, item)
    except ApiError as error:
        raise UserError(error.message) from error


def draw_result(result: ZeroShotResult, images: dict[Path, bytes]) -> str:
    """Accuracy where there are labels, and predictions; ``images``: bytes by name."""
    labels = folder_labels(result.names)
    accuracy, places = label_accuracy(result, labels), match_labels(result.classes, labels)
    rows = ""
    for index, (name, place) in enumerate(zip(result.names, places, strict=True)):
        best = result.top(index, SHOWN_CLASSES)
        bars = "".join(
            f"<li><span>{esc(each)}</span><i><b style='width:{100 * probability:.1f}%'></b></i>"
            f"<em>{100 * probability:.0f} %</em></li>"
            for each, probability in best
        )
        mark = "none" if place is None else "correct" if result.classes[place] == best[0][0] else "wrong"
        sign = {"correct": "✓ ", "wrong": "✗ ", "none": ""}[mark]
        label = f'<td class="lcl-mark--{mark}">{sign}{esc(name.parent.name)}</td>' if accuracy else ""
        rows += f'<tr>{_image_cell(name, images[name])}<td><ol class="lcl-likely">{bars}</ol></td>{label}</tr>'
    columns = ("Image", "Likeliest classes", *(("Label",) if accuracy else ()))
    table = html_table("Predictions of each image", columns, rows, "zero") if rows else ""
    predictions = base64.b64encode(predictions_csv(result).encode()).decode("ascii")
    download = f'<a href="data:text/csv;base64,{predictions}" download="predictions.csv">Download predictions.csv</a>'
    head = _draw_accuracy(accuracy) if accuracy else f"<b>{plural(len(result.names), 'image')}</b>"
    return (
        '<section class="lcl-zero" aria-label="Predictions">'
        f'<p class="lcl-results__head" role="status">{head} · {len(result.classes)} classes. '
        f"It must choose one of your classes. {download if rows else ''}</p>{skipped_box(result.skipped)}{table}"
        f"{_draw_confusion(result.classes, accuracy) if accuracy else ''}</section>"
    )


def _draw_accuracy(accuracy: LabeledAccuracy) -> str:
    """How many are right, and the share with its interval beside chance."""
    row = {"metric": ACCURACY, "interval": accuracy.interval}
    head = (
        f"<b>{accuracy.correct} of {accuracy.count} right, {metric_text(ACCURACY, accuracy.value)}</b> "
        f"({interval_text(row)}) · chance {metric_text(ACCURACY, accuracy.chance)}"
    )
    if accuracy.interval[0] <= accuracy.chance:
        head += ', <strong class="lcl-mark--wrong">not clearly above it</strong>'
    if accuracy.left_out:
        head += f" · {plural(accuracy.left_out, 'image')} in no folder of a class"
    return head


def _image_cell(name: Path, data: bytes) -> str:
    image = thumbnail(data)
    small = f'<img src="{esc(image)}" alt="" loading="lazy">' if image else "<i></i>"
    return f'<th scope="row"><div>{small}<span>{esc(name.name)}</span></div></th>'


def _draw_confusion(classes: Sequence[str], accuracy: LabeledAccuracy) -> str:
    """Images of each class, its folder, by predicted class, folded; a fuller cell is darker."""
    if len(classes) > LARGEST_CONFUSION:
        return ""
    body = ""
    for place, (name, row) in enumerate(zip(classes, accuracy.confusion.tolist(), strict=True)):
        total = sum(row)
        cells = "".join(
            f'<td class="{"lcl-hit" if column == place else "lcl-miss"}" style="--share:{count / max(1, total):.3f}" '
            f'title="{esc(name)} taken for {esc(classes[column])}: {count} of {total}">{count or ""}</td>'
            for column, count in enumerate(row)
        )
        body += f'<tr><th scope="row">{esc(name)}</th>{cells}<td>{total}</td></tr>'
    table = html_table("Confusion matrix", ("", *classes, "images"), body, "confusion")
    return fold("Confusion: rows are the folders, columns what was predicted", table)
