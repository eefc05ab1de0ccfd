"""Zero-shot tab: images take the class whose name is nearest, without training; accuracy where folders are labels."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.utils import get_upload_folder

from api.client import ApiError, Client, UserError
from api.client.payloads import Skipped
from api.client.zero_shot import ZeroShotResult, folder_labels, predictions_csv
from lcl_core.specs.zero_shot import PLAIN_TEMPLATES, plain_class_name
from ui.addresses import fits_address, mark_view, read_address
from ui.common import (
    LAST_COUNTS,
    SILENT_EVENT,
    PageSelection,
    file_inputs,
    first_choice,
    html_pane,
    session_file,
    unreachable_box,
    update_dropdown,
)
from ui.html import PICK_SCRIPT, error_box, heading
from ui.image_uploads import ImageUploadError, UploadedImage, find_images, read_images, thumbnail, unique_names
from ui.ranking import RankedEncoder, collection_choices, encoder_choices, last_used, rank_encoders, used_script
from ui.sessions import RunningTasks, SessionStore
from ui.tabs.zero_shot_view import (
    INVITATION,
    NO_CLASSES,
    NO_ENCODER,
    NO_IMAGES,
    SHOWN_IMAGES,
    CollectionClasses,
    draw_examples,
    draw_progress,
    draw_result,
)

DEFAULT_TEMPLATES = "\n".join(PLAIN_TEMPLATES)
MAX_PROMPTS = 5000  # classes times templates
MAX_NAME = 200  # characters of a class or template
FIELD_PARAMETERS = {"sample", "classes", "templates"}  # of an address
POLL_SECONDS = 0.3
MAX_RUNS = 4  # of one key at once, cancelled ones that have not ended included
TOO_MANY_RUNS = "Several uploads are being classified for you. Wait for some to be complete, then try again."
EXAMPLE_LABELS = ("group", "category", "subgroup")  # labels with few values, first
EXAMPLES, EXAMPLE_CLASSES, IMAGES_PER_CLASS = 3, 8, 3
# On a narrow screen the results are below the form.
REVEAL_SCRIPT = """() => {
  const results = document.querySelector('#zero-shot-results');
  if (results.getBoundingClientRect().top > innerHeight / 2) results.scrollIntoView();
}"""
EXAMPLE_PARTS, EXAMPLE_ITEMS = 8, 50  # parts of the collection, and images of each, from which examples are taken


class _RunCancelled(Exception):
    """Raised inside of a run that was cancelled."""


class ZeroShotRun:
    """One classification in a thread, from construction on; a timer of the page draws how far it is.

    Args:
        about: where the images are from.
        notes: what was left out of classes and templates.
        skipped: files that are left out already.
    """

    def __init__(
        self,
        client: Client,
        encoder: str,
        images: Sequence[UploadedImage],
        classes: Sequence[str],
        templates: Sequence[str],
        *,
        about: str,
        notes: Sequence[str] = (),
        skipped: Sequence[Skipped] = (),
    ) -> None:
        self.result: ZeroShotResult | None = None
        self._client, self._encoder, self._images = client, encoder, list(images)
        self._classes, self._templates = classes, templates
        self._about, self._notes, self._skipped = about, notes, list(skipped)
        self._done, self._seconds, self._is_cancelled = 0, 0.0, False
        self._thumbnails: dict[int, str] = {}
        self._error = error_box("Try again; the log of the page says why.", "The images were not classified")
        # the context has the key of the user
        self._thread = threading.Thread(target=copy_context().run, args=(self._classify,), daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def cancel(self) -> None:
        self._is_cancelled = True

    def wait(self, seconds: float) -> None:
        """Wait until it is done, at most ``seconds``."""
        self._thread.join(seconds)

    def draw(self) -> str:
        """The result, an error, or how far it is."""
        if not self.is_done:
            return draw_progress(self._done, len(self._images), not self._done and self._loads_encoder())
        if self.result is None:
            return self._error
        return draw_result(self.result, self._thumbnails, self._about, self._notes, self._seconds)

    def _classify(self) -> None:
        start = time.perf_counter()
        unreadable = list(self._skipped)
        try:
            result = self._client.zero_shot(
                self._encoder,
                read_images(self._images, unreadable),
                self._classes,
                self._templates,
                on_progress=self._advance,
            )
            result.skipped[:0] = unreadable
            self._seconds = time.perf_counter() - start
            self._draw_thumbnails(result)
            self.result = result
        except _RunCancelled:
            pass
        except ApiError as error:
            self._error = error_box(error.message, "The images were not classified")
        except UserError as error:
            self._error = error_box(error.message, "The classes cannot be used")
        finally:
            self._images = []  # an archive is open as long as its images are known

    def _advance(self, done: int, _: int | None) -> None:
        self._done = done
        if self._is_cancelled:
            raise _RunCancelled

    def _draw_thumbnails(self, result: ZeroShotResult) -> None:
        """Of images that the service has read, as many as are shown."""
        by_name = {image.name: image for image in self._images}
        for index, name in enumerate(result.names[:SHOWN_IMAGES]):
            try:
                self._thumbnails[index] = thumbnail(by_name[name].read())
            except ImageUploadError:
                continue

    def _loads_encoder(self) -> bool:
        try:
            return bool(self._client.health().get("loading"))
        except ApiError:
            return False


def parse_lines(text: str, what: str) -> tuple[list[str], list[str]]:
    """Lines that are not empty, each once, and what was left out, as sentences.

    Args:
        what: a line is, for the sentences.
    """
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


def find_examples(client: Client, encoders: Sequence[RankedEncoder] | None = None) -> list[CollectionClasses]:
    """Lists of classes out of the labels of the first collection, with some of its images. Raises: ApiError.

    Args:
        encoders: as of ``collection_choices``.
    """
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


def _is_too_long(address: Mapping[str, str], classes: str, templates: str) -> bool:
    """Does the form have a list that is no part of its address because of its length?"""
    lists = {"classes": classes, "templates": templates}
    return any(name not in address and not fits_address(text) for name, text in lists.items())


class OpenedForm(NamedTuple):
    """Updates of the components that an address changes."""

    encoder: Any = gr.skip()
    files: Any = gr.skip()
    sample: Any = gr.skip()
    classes: Any = gr.skip()
    templates: Any = gr.skip()
    examples: Any = gr.skip()
    view: Any = gr.skip()
    results: Any = gr.skip()
    download: Any = gr.skip()
    clock: Any = gr.skip()


class ZeroShotTab:
    title = "Zero-shot"

    def __init__(self, client: Client, team: SessionStore | None = None) -> None:
        self.client = client
        self.running = RunningTasks[ZeroShotRun](team, MAX_RUNS, TOO_MANY_RUNS)

    def build(self) -> None:
        self.run = gr.State(PageSelection[ZeroShotRun | None](None))
        self.sample = gr.State("")  # label of the example whose images are classified; empty: the uploaded ones
        self.view = html_pane(elem_id="zero-shot-view")
        with gr.Row(equal_height=False, elem_classes="lcl-columns"):
            with gr.Column(scale=4, min_width=300, elem_classes="lcl-panel"):
                html_pane(heading("Classify by names", "No training: the names of the classes are all that is needed."))
                self.encoder = gr.Dropdown(label="Encoder")
                self.files, self.folder = file_inputs("Images, or a zip of images", "zero-shot")
                html_pane('<p class="lcl-note">Folders named like the classes (class/image.png) give the accuracy.</p>')
                self.classes = gr.Textbox(
                    "", label="Classes, one a line", placeholder="dog\ncat\nhouse", lines=5, max_lines=12,
                    elem_id="zero-shot-classes",
                )  # fmt: skip
                with gr.Accordion("Templates", open=False):
                    self.templates = gr.Textbox(
                        DEFAULT_TEMPLATES, label="Templates, one a line", lines=5, max_lines=12,
                        info="{} is the class; several are averaged", elem_id="zero-shot-templates",
                    )  # fmt: skip
                self.go = gr.Button("Classify", variant="primary")
                self.examples = html_pane(js_on_load=PICK_SCRIPT, elem_id="zero-shot-examples")
            with gr.Column(scale=6, min_width=300):
                self.download = gr.DownloadButton(
                    "Download predictions.csv", visible=False, elem_id="zero-shot-download"
                )
                self.results = html_pane(INVITATION, elem_id="zero-shot-results")

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        self.clock = gr.Timer(POLL_SECONDS, active=False)
        shown = [self.results, self.download, self.clock]
        inputs = [self.run, self.encoder, self.files, self.sample, self.classes, self.templates]
        for event, handle in ((tab.select, self.open_link), (navigation.select, self.open_address)):
            event(handle, inputs, [*inputs[1:], self.examples, self.view, *shown], **SILENT_EVENT | LAST_COUNTS)
        self.encoder.input(None, self.encoder, js=used_script("encoder"))
        viewed, classified = inputs[1:2] + inputs[3:], [self.view, *shown]
        for event in (self.go.click, self.classes.submit, self.templates.submit):
            event(self.classify, inputs, classified, **SILENT_EVENT).then(None, js=REVEAL_SCRIPT)
        for field in (self.classes, self.templates):
            field.blur(self.mark, viewed, self.view, **SILENT_EVENT)
        self.encoder.input(self.classify_again, inputs, classified, **SILENT_EVENT | LAST_COUNTS)
        uploads = [self.files, self.sample, self.classes]
        self.files.upload(self.use_files, [self.files, self.classes], uploads, **SILENT_EVENT).then(
            self.classify, inputs, classified, **SILENT_EVENT | LAST_COUNTS
        )
        self.folder.upload(self.use_files, [self.folder, self.classes], uploads, **SILENT_EVENT).then(
            self.classify, inputs, classified, **SILENT_EVENT | LAST_COUNTS
        )
        self.examples.select(self.use_example, outputs=uploads, **SILENT_EVENT).then(
            self.classify, inputs, classified, **SILENT_EVENT | LAST_COUNTS
        ).then(None, js=REVEAL_SCRIPT)
        self.clock.tick(self.poll, self.run, shown, **SILENT_EVENT)

    def open_link(self, request: gr.Request, *values: Any) -> OpenedForm:
        """As ``open_address``, when the tab is opened: the fields stay unless the address has a value of one.

        What was typed and what runs by the time of the answer is not lost so. ``values``: the inputs.
        """
        writes = not FIELD_PARAMETERS.isdisjoint(read_address(request, "zero-shot"))
        return self._open(request, writes, *values)

    def open_address(self, request: gr.Request, *values: Any) -> OpenedForm:
        """Encoders and examples, and what the address says; on that of another tab, what was shown.

        Without an encoder no opening has succeeded yet: what was typed meanwhile stays.
        """
        return self._open(request, True, *values) if values[1] else self.open_link(request, *values)

    def _open(
        self,
        request: gr.Request,
        writes: bool,
        run: PageSelection[ZeroShotRun | None],
        encoder: str | None,
        files: list[str] | None,
        sample: str,
        classes: str,
        templates: str,
    ) -> OpenedForm:
        """``writes``: what the address says of the fields, too, unless a run has begun meanwhile."""
        began = run.current
        address = read_address(request, "zero-shot")
        try:
            ranked = rank_encoders(self.client)
            choices = encoder_choices(self.client, ranked)
            examples = draw_examples(find_examples(self.client, ranked))
        except ApiError as error:
            return OpenedForm(results=gr.skip() if encoder else unreachable_box(error, reopens=True))
        wanted = address.get("encoder") or encoder or last_used(request, "encoder")
        form = OpenedForm(encoder=update_dropdown(choices, encoder, wanted), examples=examples)
        if not choices:
            return form._replace(results=NO_ENCODER)
        known = {value for _, value in choices}
        if address.get("encoder") and wanted not in known:
            lost = error_box(f"There is no encoder {wanted!r}.", "Not found")
            return form._replace(results=lost)
        chosen = wanted if wanted in known else first_choice(choices)
        fields = (address.get("sample", ""), address.get("classes", ""), address.get("templates", DEFAULT_TEMPLATES))
        is_shown = (encoder, sample, _lines(classes), _lines(templates)) == (
            chosen,
            fields[0],
            *map(_lines, fields[1:]),
        )
        writes = writes and bool(address) and run.current is began
        if not writes or _is_too_long(address, classes, templates) or (run.current and is_shown):
            return form if run.current else form._replace(results=INVITATION)
        drawn = self.classify(run, chosen, files, *fields) if fields[1] else self._idle(run)
        return OpenedForm(form.encoder, gr.skip(), *fields, examples, *drawn)

    def classify(
        self,
        run: PageSelection[ZeroShotRun | None],
        encoder: str | None,
        files: list[str] | None,
        sample: str,
        classes: str,
        templates: str,
    ) -> tuple[Any, ...]:
        """Start a run; one under way is cancelled. Returns: view, results, download, clock."""
        self._cancel(run)
        view, hidden = self.mark(encoder, sample, classes, templates), gr.DownloadButton(visible=False)
        stopped = gr.Timer(active=False)
        names, notes = parse_lines(classes, "Class")
        prompts, template_notes = parse_templates(templates)
        if not files and not sample:
            return view, NO_IMAGES if names else INVITATION, hidden, stopped
        if len(names) < 2:
            return view, NO_CLASSES, hidden, stopped
        if problem := _prompt_problem(names, prompts):
            return view, error_box(problem, "The templates cannot be used"), hidden, stopped
        try:
            encoder = encoder or first_choice(encoder_choices(self.client))
            images, skipped, about = self._images(files, sample)
        except ApiError as error:
            return view, unreachable_box(error), hidden, stopped
        if encoder is None:
            return view, NO_ENCODER, hidden, stopped
        left_out = [*notes, *template_notes]
        begin = partial(ZeroShotRun, self.client, encoder, images, names, prompts)
        try:
            run.current = self.running.start(partial(begin, about=about, notes=left_out, skipped=skipped))
        except ApiError as error:
            return view, error_box(error.message, "The images were not classified"), hidden, stopped
        return view, run.current.draw(), hidden, gr.Timer(active=True)

    def classify_again(self, run: PageSelection[ZeroShotRun | None], *inputs: Any) -> tuple[Any, ...]:
        """With another encoder, if something was classified."""
        return self.classify(run, *inputs) if run.current else (gr.skip(),) * 4

    def poll(self, run: PageSelection[ZeroShotRun | None]) -> tuple[Any, Any, Any]:
        """How far the run is; at its end the result and its file, and the timer stops."""
        current = run.current
        if current is None:
            return gr.skip(), gr.skip(), gr.Timer(active=False)
        is_done = current.is_done  # before drawing, which is then complete
        drawn = current.draw()
        if run.current is not current:  # a newer one began
            return gr.skip(), gr.skip(), gr.skip()
        if not is_done:
            return drawn, gr.skip(), gr.skip()
        return drawn, _download(current.result), gr.Timer(active=False)

    def mark(self, encoder: str | None, sample: str, classes: str, templates: str) -> str:
        """The address of what the form says; lists that are too long for one are left out."""
        names = parse_lines(classes, "Class")[0]
        if not names:
            return mark_view("")
        title = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
        own = "" if templates == DEFAULT_TEMPLATES else templates
        return mark_view("", title, encoder=encoder, sample=sample, classes="\n".join(names), templates=own)

    def use_files(self, paths: list[str] | None, classes: str) -> tuple[Any, str, Any]:
        """Uploaded files in place of an example; their folders are the classes if none are named.

        Returns: files, sample, classes.
        """
        images, _ = find_images(paths or (), Path(get_upload_folder()))
        folders = sorted({label for label in folder_labels([image.name for image in images]) if label})
        named = "\n".join(map(plain_class_name, folders)) if len(folders) > 1 and not classes.strip() else gr.skip()
        return paths, "", named

    def use_example(self, event: gr.EventData) -> tuple[Any, ...]:
        """Images and classes of an example. Returns: files, sample, classes."""
        try:
            example = self._example(str(event.pick))
        except ApiError:
            example = None  # the run says why
        return None, str(event.pick), "\n".join(example.classes) if example else gr.skip()

    def _images(self, files: list[str] | None, sample: str) -> tuple[list[UploadedImage], list[Skipped], str]:
        """Images, files left out, and where the images are from. Raises: ApiError."""
        if not sample:
            return *find_images(files or (), Path(get_upload_folder())), "of yours"
        example = self._example(sample)
        if example is None:
            raise ApiError(404, "not_found", f"there is no example {sample!r}; choose images, or another example")
        fetch = partial(_fetch_item, self.client, example.collection)
        images = [UploadedImage(name, partial(fetch, item)) for item, name in example.items]
        return unique_names(images), [], "of the collection (the encoder may have been trained on them)"

    def _example(self, label: str) -> CollectionClasses | None:
        return next((each for each in find_examples(self.client) if each.label == label), None)

    def _idle(self, run: PageSelection[ZeroShotRun | None]) -> tuple[Any, ...]:
        """View, results, download and clock without classes."""
        self._cancel(run)
        return mark_view(""), INVITATION, gr.DownloadButton(visible=False), gr.Timer(active=False)

    def _cancel(self, run: PageSelection[ZeroShotRun | None]) -> None:
        if run.current is not None:
            run.current.cancel()
        run.current = None


def _lines(text: str) -> list[str]:
    return parse_lines(text, "")[0]


def _fetch_item(client: Client, collection: str, item: str) -> bytes:
    try:
        return client.item_image(collection, item)
    except ApiError as error:
        raise ImageUploadError(error.message) from error


def _prompt_problem(names: Sequence[str], templates: Sequence[str]) -> str:
    """Why these classes and templates cannot be used; empty if they can."""
    if not templates:
        return "Give at least one template with {} for the class, such as “a drawing of {}”."
    if len(names) * len(templates) > MAX_PROMPTS:
        return f"{len(names)} classes in {len(templates)} templates are more than {MAX_PROMPTS} texts; give fewer."
    return ""


def _download(result: ZeroShotResult | None) -> gr.DownloadButton:
    """The predictions as a file; hidden without any."""
    if result is None or not result.names:
        return gr.DownloadButton(visible=False)
    file = session_file("predictions.csv", predictions_csv(result).encode())
    return gr.DownloadButton(value=file, visible=True)
