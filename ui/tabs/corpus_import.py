"""A dataset from the browser: a folder or zip is sent to the service, checked and converted."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from api.client import ApiError, Client, UserError
from api.client.payloads import FINAL_STATES, PACKED_FOLDER, format_bytes
from lcl_core.specs.base import slug
from ui.addresses import address
from ui.common import BUSY_EVENT, LAST_COUNTS, SILENT_EVENT, PageSelection, file_inputs, html_pane, seen_script
from ui.figures import number
from ui.html import badge, error_box, esc, plural, run_link, status_line
from ui.session_files import path_below_upload

POLL_SECONDS = 1.5
MAX_SHOWN_PROBLEMS = 5
STEPS = ("Upload", "Check", "Convert", "Train")
HINT = """<a class="lcl-back" href="?tab=data">‹ Data</a>
<p class="lcl-note">Markdown or HTML pages, folders named like classes, captions in CSV or JSON lines, COCO, Karpathy,
NoCaps, MMC4, OBELICS or WebDataset: the format is detected. For more than 256 files use a zip, above 32 MB
<code>lcl data import</code>.</p>"""
KEPT = status_line("The files are removed when the dataset is made; files that are not sent, when your session ends.")
NOTHING_CHOSEN = status_line("Choose a folder or a zip first.")

Run = Mapping[str, Any]


@dataclass(frozen=True)
class ImportedCorpus:
    """A corpus that was sent, and the runs that check and convert it."""

    name: str
    files: int
    bytes: int
    check_run: str
    convert_run: str


class CorpusImport:
    """The panel. ``build`` and ``wire`` as a tab's."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def build(self) -> None:
        self.imported = gr.State(PageSelection[ImportedCorpus | None](None))
        self.seen = gr.Checkbox(True, visible=False)  # whether the tab is looked at (seen_script)
        html_pane(HINT)
        with gr.Walkthrough(selected=0, elem_id="corpus-steps") as self.steps:
            for place, step in enumerate(STEPS):
                with gr.Step(step, id=place, interactive=place == 0):
                    if place == 0:
                        self.files, self.folder = file_inputs("A zip, or the files of one folder", "corpus")
                        html_pane(KEPT)
                        self.name = gr.Textbox(
                            "", label="Name of the dataset", placeholder="my-data", max_lines=1, elem_id="corpus-name"
                        )
                        self.version = html_pane(elem_id="corpus-version")
                        self.go = gr.Button("Check and convert", variant="primary", elem_id="corpus-import")
        self.status = html_pane(elem_id="corpus-status")

    def wire(self) -> None:
        clock = gr.Timer(POLL_SECONDS, active=False)
        for source in (self.files, self.folder):
            source.upload(self.use_files, [source, self.name], [self.files, self.name, self.status], **SILENT_EVENT)
        self.name.change(self.describe_version, self.name, self.version, **SILENT_EVENT | LAST_COUNTS)
        outputs = [self.status, self.steps, clock]
        self.go.click(self.start, [self.imported, self.files, self.name], [self.name, *outputs], **BUSY_EVENT)
        clock.tick(self.tick, [self.imported, self.seen], outputs, js=seen_script("data"), **SILENT_EVENT)

    def use_files(self, files: list[str] | None, name: str) -> tuple[Any, Any, str]:
        """The files, a name where none was typed, and what was chosen."""
        if not files:
            return gr.skip(), gr.skip(), ""
        size = format_bytes(sum(Path(file).stat().st_size for file in files))
        chosen = status_line(f"{plural(len(files), 'file')}, {size} chosen.")
        return files, gr.skip() if name.strip() else suggest_name(files), chosen

    def describe_version(self, name: str) -> str:
        """That the import becomes a new version, where there is a dataset of the name; else empty."""
        name = slug(name)
        try:
            exists = any(dataset["name"] == name for dataset in self.client.datasets())
        except ApiError:  # the service says so when the files are sent
            return ""
        return status_line(f"{name} exists and gets a new version. Its owner and admins may add one.") if exists else ""

    def start(
        self, imported: PageSelection[ImportedCorpus | None], files: list[str] | None, name: str
    ) -> tuple[Any, ...]:
        """Send the files, and queue a validation and the conversion after it."""
        if not files:
            return gr.skip(), NOTHING_CHOSEN, gr.skip(), gr.skip()
        name = slug(name) or suggest_name(files)
        try:
            imported.current = self._send(files, name)
        except (ApiError, UserError) as error:
            return name, error_box(error.message, "The files were not taken"), gr.skip(), gr.skip()
        except OSError:
            gone = error_box("The files are no longer kept; choose them again.", "The files were not taken")
            return name, gone, gr.skip(), gr.skip()
        return name, *self.poll(imported)

    def tick(self, imported: PageSelection[ImportedCorpus | None], seen: bool | None) -> tuple[Any, ...]:
        """Fetches nothing while another tab is looked at."""
        return self.poll(imported) if seen else (gr.skip(),) * 3

    def poll(self, imported: PageSelection[ImportedCorpus | None]) -> tuple[Any, ...]:
        """Both runs as they are, and the step; the clock stops when both have ended, or one is deleted."""
        corpus = imported.current
        if corpus is None:
            return "", gr.skip(), gr.Timer(active=False)
        try:
            check, convert = self.client.run(corpus.check_run), self.client.run(corpus.convert_run)
        except ApiError as error:
            again = error.status != HTTPStatus.NOT_FOUND
            return error_box(error.message, "The runs cannot be shown"), gr.skip(), gr.Timer(active=again)
        moving = any(run["state"] not in FINAL_STATES for run in (check, convert))
        step = 1 + (check["state"] == "succeeded") + (convert["state"] == "succeeded")
        return draw_import(corpus, check, convert), gr.Walkthrough(selected=step), gr.Timer(active=moving)

    def _send(self, files: Sequence[str], name: str) -> ImportedCorpus:
        """Raises: ApiError, UserError, OSError."""
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(files[0])
            if not is_single_archive(files):
                archive = Path(folder) / "corpus.zip"
                pack_files(files, archive)
            upload = self.client.upload_corpus(archive)
        corpus = {"path": upload["path"]}
        check = self.client.submit("validate", {**corpus, "tokens": False}, name=f"check {name}")
        convert = self.client.submit("convert", {**corpus, "name": name}, name=f"convert {name}", after=[check["id"]])
        return ImportedCorpus(name, upload["files"] or 0, upload["bytes"], check["id"], convert["id"])


def is_single_archive(files: Sequence[str]) -> bool:
    return len(files) == 1 and files[0].lower().endswith(".zip")


def pack_files(files: Sequence[str], archive: Path) -> None:
    """Put uploaded files into a zip, each at its path in the folder that was chosen. Raises: OSError, UserError.

    All are below one folder, which the service removes: else it would remove a single folder of the corpus, such as
    ``test`` or the only class.
    """
    with zipfile.ZipFile(archive, "w", strict_timestamps=False) as packed:
        for file, name in zip(files, upload_names(files), strict=True):
            member = f"{PACKED_FOLDER}/{name}"
            if member in packed.NameToInfo:
                raise UserError(f"two files have the name {name}; choose the folder instead", code="file_unreadable")
            packed.write(file, member)


def upload_names(files: Sequence[str]) -> list[str]:
    """The path of each file in the folder that was chosen."""
    root = Path(get_upload_folder())
    return [path_below_upload(Path(file), root).as_posix() for file in files]


def suggest_name(files: Sequence[str]) -> str:
    """A name for the dataset: that of the zip. The browser does not say how a folder is called."""
    return (slug(Path(files[0]).stem) if is_single_archive(files) else "") or "my-data"


def draw_import(corpus: ImportedCorpus, check: Run, convert: Run) -> str:
    """What has arrived, the check with its problems, the conversion, and what to do next."""
    rows = [
        ("Received", f"{plural(corpus.files, 'file')}, {format_bytes(corpus.bytes)}"),
        ("Checked", f"{badge(check['state'])} {_check_result(check)}"),
        ("Converted", f"{badge(convert['state'])} {_convert_result(convert)}"),
    ]
    listed = "".join(f"<div><dt>{name}</dt><dd>{html}</dd></div>" for name, html in rows)
    return f'<div role="status"><dl class="lcl-facts lcl-steps">{listed}</dl></div>{_next_steps(convert)}'


def _check_result(run: Run) -> str:
    report = (run.get("result") or {}).get("report")
    if report is None:
        return _reason(run)
    found = [f"{number(report[what])} {what}" for what in ("documents", "images") if report.get(what)]
    counts = ", ".join([*found, plural(sum(report["reasons"].values()), "problem")])
    problems = "".join(
        f"<li>{esc(issue['file'])}{':' + str(issue['line']) if issue['line'] else ''}: "
        f"{esc(issue['reason'])}: {esc(issue['detail'])}</li>"
        for issue in report.get("first", [])[:MAX_SHOWN_PROBLEMS]
    )
    listed = f"<ul>{problems}<li>All problems: files of {run_link(str(run['id']))}.</li></ul>" if problems else ""
    return f"{counts}{listed}"


def _convert_result(run: Run) -> str:
    dataset = (run.get("result") or {}).get("dataset")
    if dataset is None:
        return _reason(run)
    return f"{number(dataset['records'])} records, {number(dataset['pictures'])} images"


def _reason(run: Run) -> str:
    reason = run.get("reason") or {}
    return f"{esc(reason['message'])} ({run_link(str(run['id']))})" if reason.get("message") else ""


def _next_steps(run: Run) -> str:
    result = run.get("result") or {}
    if run["state"] != "succeeded" or "dataset" not in result:
        return ""
    name = str(result.get("registered_as", result["dataset"]["name"]))
    doors = (
        ("Train on it", "The form of a pre-training, filled in", address(tab="runs", new="pretrain", dataset=name)),
        ("Search it", "The form that makes a collection of its images", address(tab="runs", new="index", dataset=name)),
        ("Look at it", f"The documents of {name}", address(dataset=name)),
    )
    cards = "".join(
        f'<li><a href="{esc(link)}"><b>{title}</b><span>{esc(hint)}</span></a></li>' for title, hint, link in doors
    )
    return f'<ul class="lcl-doors" aria-label="What next">{cards}</ul>'
