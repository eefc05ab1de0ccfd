"""What the tabs share: the tab protocol, how events are declared, choices for pickers, uploads as bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import gradio as gr
from gradio.events import Dependency

from api.client import ApiError, Client
from api.client.payloads import Json, format_bytes, may
from ui.html import error_box, pick_form

Shown = TypeVar("Shown")

# Options of every event: not offered as an API, and not through Gradio's queue, where an event that joins while the
# stream of the previous one is being closed is never answered. Messages are HTML (ui.html.toast), since gr.Warning and
# gr.Error need the queue.
SILENT_EVENT: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
BUSY_EVENT: dict[str, Any] = SILENT_EVENT | {"show_progress": "minimal"}
# Gradio drops an event that comes while the previous one of its kind is under way. A choice among values, and an
# address, waits instead, since the last one counts; a click on one of several things begins at once.
LAST_COUNTS: dict[str, Any] = {"trigger_mode": "always_last"}
EACH_COUNTS: dict[str, Any] = {"trigger_mode": "multiple"}

# for an event whose first inputs are a turn and a number, which the browser gives it: of two presses the later has the
# higher one, in whatever order the requests arrive (page.js)
NUMBER_SCRIPT = "(turn, number, ...values) => [turn, window.lclSearch.number(), ...values]"
# for an event without a part in Python: its output, a text field, is empty at once
CLEAR_SCRIPT = "() => ''"
# for an event that has drawn a ``ui.html.question_box``, or a field for a new name: the focus goes to it, and after the
# answer back (page.js)
FOCUS_QUESTION_SCRIPT = "() => window.lclQuestion.focus()"

IMAGE_UNREADABLE = "image_unreadable"  # error code of the service
MAX_IMAGE_BYTES = 16 * 2**20  # as the service accepts


def restore_script() -> str:
    """For an event whose last input is a text: there the draft of this address as JSON, ``null`` without one."""
    return "(...values) => [...values.slice(0, -1), window.lclDraft.restore()]"


def run_after(event: Dependency, script: str) -> None:
    """Run the script in the browser after the event, also after one that was refused: ``then`` follows no failure."""
    for follow in (event.then, event.failure):
        follow(None, js=script)


def seen_script(tab: str) -> str:
    """For an event of a clock: its last input is None while the tab is not looked at.

    The browser decides at each tick, since the events of tabs may overtake each other.
    """
    return f"""(...values) => {{
  const seen = !document.hidden && document.querySelector('#tab-{tab}-button[aria-selected="true"]');
  return [...values.slice(0, -1), seen ? values.at(-1) : null];
}}"""


def own_key(client: Client) -> Json:
    """The key in use: owner, role, may_import; one that may do nothing where the service does not answer."""
    try:
        return client.own_key()
    except ApiError:
        return {"owner": "", "role": "", "may_import": False}


def may_change(own: Json, owner: str | None) -> bool:
    """Whether the key ``own`` may change or delete what is the owner's."""
    return may(own["role"], "admin") or (may(own["role"], "submitter") and own["owner"] == owner)


@dataclass
class PageSelection(Generic[Shown]):
    """The object that a user has selected, in a ``gr.State``, changed in place.

    Events overtake each other. An event that began before a newer selection finds it here at its end, and then draws
    nothing.
    """

    current: Shown


@dataclass(frozen=True)
class ListPage:
    """Which page of a list, newest first, is on show.

    Args:
        cursors: of the pages from the second one to this one; none: the first page.
        next_cursor: of the page with older ones; None: this is the last one.
    """

    cursors: tuple[str, ...] = ()
    next_cursor: str | None = None

    @property
    def cursor(self) -> str | None:
        """Of this page, as the service wants it."""
        return self.cursors[-1] if self.cursors else None

    def turned(self, direction: str) -> ListPage:
        """The page after a click on ``older`` or ``newer``; the same one where there is none."""
        if direction == "newer":
            return ListPage(self.cursors[:-1])
        return ListPage((*self.cursors, self.next_cursor)) if self.next_cursor else self

    def fetched(self, page: ListPage, next_cursor: str | None) -> ListPage:
        """This page, now that ``page`` has been fetched: another may have been opened meanwhile."""
        return replace(self, next_cursor=next_cursor) if page.cursors == self.cursors else self

    def draw(self) -> str:
        """Buttons with the events ``page:newer`` and ``page:older``; nothing where one page holds all."""
        if not self.cursors and not self.next_cursor:
            return ""
        newer, older = (
            f'<button type="button" data-pick="page:{direction}" aria-disabled="{str(disabled).lower()}">'
            f"{direction.title()}</button>"
            for direction, disabled in (("newer", not self.cursors), ("older", not self.next_cursor))
        )
        number = f"<span>Page {len(self.cursors) + 1}</span>"
        return f'<nav class="lcl-pages" aria-label="Pages of the list">{newer}{number}{older}</nav>'


def newest(handler: Callable[..., tuple[Any, ...]], *, begins: bool = True) -> Callable[..., tuple[Any, ...]]:
    """``handler`` behind a turn (a PageSelection of a number): it changes nothing if a newer search began meanwhile.

    Args:
        begins: the event begins a search, and its second input is the number that the browser gave it: requests
            overtake each other, so the order of their arrival is not that of the presses. Otherwise the event
            continues the search on show.
    """

    def event(turn: PageSelection[int], *inputs: Any) -> tuple[Any, ...]:
        mine, arguments = turn.current, inputs
        if begins:
            mine, arguments = int(inputs[0] or turn.current + 1), inputs[1:]
        turn.current = max(turn.current, mine)
        result = handler(*arguments)
        return result if turn.current == mine else (gr.skip(),) * len(result)

    event.__name__ = getattr(handler, "__name__", event.__name__)  # Gradio's logs name an event by it
    return event


class PageTab(Protocol):
    """One tab. ``build`` makes its components inside the open gr.Tab; ``wire`` adds their events afterwards.

    ``navigation`` has a select event when Back, Forward or a link leads to an address of the tab.
    """

    def __init__(self, client: Client) -> None: ...

    def build(self) -> None: ...

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None: ...


def html_pane(html: str = "", **options: Any) -> gr.HTML:
    """A component for HTML in the page's own style."""
    return gr.HTML(html, apply_default_css=False, **options)


def update_dropdown(choices: Sequence[tuple[str, str]], current: str | None, wanted: str | None = None) -> Any:
    """New choices of a dropdown, and its value: ``wanted``, else the current one, else the first choice.

    The update leaves out a value that stays: another may be chosen before the update arrives. Without choices the value
    is always emptied, since Gradio's page keeps it otherwise.
    """
    values = [value for _, value in choices]
    value = next((each for each in (wanted, current) if each in values), first_choice(choices))
    changed: dict[str, Any] = {} if value == current and values else {"value": value}
    return gr.update(choices=list(choices), interactive=bool(values), **changed)


def select_choice(fetch: Callable[[], Sequence[tuple[str, str]]], current: str | None, wanted: str | None) -> Any:
    """A dropdown with the value ``wanted``, and with the choices that ``fetch`` returns, since the page's may lack it.

    Gradio refuses each event that sends a value which its dropdown does not offer. So there is no change if ``wanted``
    is not among the choices, or if they cannot be fetched; nor if it is the current value.
    """
    if wanted == current:
        return gr.skip()
    try:
        choices = fetch()
    except ApiError:
        return gr.skip()
    return update_dropdown(choices, current, wanted) if wanted in [value for _, value in choices] else gr.skip()


def first_choice(choices: Sequence[tuple[str, str]]) -> str | None:
    """Value for an event that arrives before the dropdown has choices."""
    return choices[0][1] if choices else None


def file_paths(payload: Any) -> list[str] | None:
    """Paths of uploaded files, as ``preprocess`` of an upload of several: Gradio's own makes an empty file for each."""
    return [file.path for file in payload] if payload else None


def file_inputs(label: str, name: str) -> tuple[gr.File, gr.UploadButton]:
    """Inputs for several files, and for a folder of them; their values are paths. ``name``: begins element ids."""
    files = gr.File(label=label, file_count="multiple", height=145, elem_id=f"{name}-files")
    folder = gr.UploadButton("Choose a folder", file_count="directory", size="sm", elem_id=f"{name}-folder")
    for component in (files, folder):
        component.preprocess = file_paths  # type: ignore[method-assign]
    return files, folder


def read_upload(path: str) -> bytes:
    """Bytes of an uploaded image. Raises: ApiError ``too_large``, for one that the service would refuse."""
    file = Path(path)
    if file.stat().st_size > MAX_IMAGE_BYTES:
        message = f"the image is larger than {format_bytes(MAX_IMAGE_BYTES)}; make it smaller"
        raise ApiError(422, "too_large", message, "image")
    return file.read_bytes()


def unreachable_box(error: ApiError, *, reopens: bool = False) -> str:
    """``reopens``: as of ``error_box``."""
    return error_box(error.message, "The service cannot be reached", reopens=reopens)


def api_error_box(error: ApiError, title: str) -> str:
    """An error of the service as HTML; with a message of the page for a file that is no image."""
    if error.code == IMAGE_UNREADABLE:
        return error_box("This file is not an image that can be read. Choose a PNG, JPEG, WebP or GIF.", "No image")
    return error_box(error.message, title)


class TagChange(NamedTuple):
    """A tag that images, or documents, gain or lose."""

    tag: str
    items: list[str]
    remove: bool

    def describe(self, changed: int, noun: str = "image") -> str:
        """``changed``: number of items whose tags are others now."""
        items = f"1 {noun}" if changed == 1 else f"{changed:,} {noun}s"
        return f"{items} {'lost' if self.remove else 'gained'} the tag {self.tag}."


def parse_tag_change(value: str) -> TagChange:
    """From the event of a tag form. Raises: ValueError."""
    change = json.loads(value)
    items = [str(item) for item in change["items"]]
    return TagChange(str(change["text"]).strip(), items, remove=change["button"] == "remove")


def removal_of(tag: str, item: str) -> str:
    """As the event of a tag form: this item loses the tag."""
    return json.dumps({"text": tag, "items": [item], "button": "remove"})


def draw_tag_form(owner: str, items: Sequence[str], *, hint: str = "Tag …") -> str:
    """A field for a tag that items of a collection or dataset gain or lose: an event ``tag:OWNER:CHANGE``."""
    inside = (
        f'<input name="tag" maxlength="100" required autocomplete="off" placeholder="{hint}" aria-label="Tag">'
        '<button type="submit" value="add">Add</button><button type="submit" value="remove">Remove</button>'
    )
    return pick_form(f"tag:{owner}", "lcl-tag", inside, items=list(items))
