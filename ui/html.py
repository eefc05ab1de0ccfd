"""HTML fragments and text formats of the tabs. All text from users and datasets passes through ``esc``."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any
from urllib.parse import quote

LOGO_SVG = """<svg class="lcl-mark" viewBox="0 0 40 40" aria-hidden="true">
<rect x="3" y="5" width="14" height="14" rx="3"/><path d="M21 8h16M21 15h11"/>
<path d="M3 26h11M3 33h16"/><circle cx="30" cy="29" r="7"/></svg>"""
TAGLINE = "Vision encoders learned from documents of images and text: search, caption, embed, train."

# For gr.HTML(js_on_load=...): a click on an element with data-pick triggers a select event with its value, and so does
# the submission of a ``pick_form``.
PICK_SCRIPT = """
element.addEventListener('click', (event) => {
  const chosen = event.target.closest('[data-pick]');
  if (chosen && element.contains(chosen)) trigger('select', {pick: chosen.dataset.pick});
});
element.addEventListener('submit', (event) => {
  const form = event.target.closest('form[data-submit]');
  if (!form) return;
  event.preventDefault();
  const text = form.querySelector('input').value.trim();
  const button = event.submitter?.value ?? '', address = location.search || '?';
  const values = {...JSON.parse(form.dataset.values), text, button, address};
  if (text) trigger('select', {pick: `${form.dataset.submit}:${JSON.stringify(values)}`});
});
"""

SHOWN_SKIPPED = 20  # files of a list of those that were left out
ACTIVE_STATES = ("waiting", "queued", "running", "pausing", "cancelling")
STATE_LABELS = {
    "waiting": "Waiting",
    "queued": "Queued",
    "running": "Running",
    "pausing": "Pausing",
    "paused": "Paused",
    "cancelling": "Stopping",
    "succeeded": "Succeeded",
    "failed": "Failed",
    "cancelled": "Cancelled",
}


def esc(value: Any) -> str:
    """``value`` escaped for text and quoted attributes."""
    return escape(str(value), quote=True)


def badge(state: str) -> str:
    """A coloured pill with a run's state."""
    word = STATE_LABELS.get(state, state)
    return f'<span class="lcl-badge lcl-badge--{esc(state)}"><i aria-hidden="true"></i>{esc(word)}</span>'


def empty_state(title: str, hint: str) -> str:
    """Placeholder of an empty pane: what is missing and how to get it."""
    return f'<div class="lcl-empty" role="status"><strong>{esc(title)}</strong><p>{esc(hint)}</p></div>'


def error_box(message: str, title: str = "That did not work", *, reopens: bool = False) -> str:
    """An error message, announced by screen readers. ``reopens``: with a button that opens the tab again (page.js)."""
    again = ' <button type="button" data-reopen>Try again</button>' if reopens else ""
    return f'<div class="lcl-problem" role="alert"><strong>{esc(title)}</strong><p>{esc(message)}{again}</p></div>'


def skipped_box(skipped: Sequence[tuple[Any, str]]) -> str:
    """Files that were left out, by name, and why; empty without one."""
    if not skipped:
        return ""
    rows = "".join(
        f"<li><b>{esc(name)}</b> {esc(reason.partition(': ')[2] if reason.startswith('input.') else reason)}</li>"
        for name, reason in skipped[:SHOWN_SKIPPED]
    )
    more = f"<li>and {len(skipped) - SHOWN_SKIPPED} more</li>" if len(skipped) > SHOWN_SKIPPED else ""
    title = f"{plural(len(skipped), 'file')} left out"
    return f'<div class="lcl-problem" role="alert"><strong>{title}</strong><ul>{rows}{more}</ul></div>'


def toast(message: str, title: str = "Not possible") -> str:
    """An error message over the page for some seconds. By the time stamp a repeated message appears again (page.js)."""
    words = f"<strong>{esc(title)}</strong><p>{esc(message)}</p>"
    return f'<div class="lcl-problem lcl-toast" role="alert" data-at="{time.monotonic_ns()}">{words}</div>'


def notice(message: str, title: str) -> str:
    """What has been done, over the page for some seconds; as ``toast``."""
    words = f"<strong>{esc(title)}</strong><p>{esc(message)}</p>"
    return f'<div class="lcl-notice lcl-toast" role="status" data-at="{time.monotonic_ns()}">{words}</div>'


def question_box(title: str, consequence: str, yes: tuple[str, str], no: tuple[str, str]) -> str:
    """A question before something is lost; ``yes`` and ``no``: value of the select event (PICK_SCRIPT), and words."""
    buttons = " ".join(
        f'<button type="button" data-pick="{esc(pick)}">{esc(words)}</button>' for pick, words in (no, yes)
    )
    return (
        f'<div class="lcl-question-box" role="alertdialog" aria-label="{esc(f"{title} {consequence}")}">'
        f"<strong>{esc(title)}</strong><p>{esc(consequence)}</p><p>{buttons}</p></div>"
    )


def pick_form(verb: str, style: str, inside: str, **values: Any) -> str:
    """A form with one text field, whose submission is a select event ``VERB:JSON`` (PICK_SCRIPT).

    The JSON has the field's ``text``, unless it is blank, the value of the ``button`` that was pressed, the ``address``
    of the page, and ``values``.
    """
    return f'<form class="{style}" data-submit="{esc(verb)}" data-values="{esc(json.dumps(values))}">{inside}</form>'


def plural(count: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{count} {noun}{'s' * (count != 1)}"


def status_line(message: str) -> str:
    """One line of status."""
    return f'<p class="lcl-note" role="status">{esc(message)}</p>'


OPENING = status_line("Opening …")


def heading(title: str, hint: str = "") -> str:
    """Title of a section, with a line that explains it."""
    below = f"<p>{esc(hint)}</p>" if hint else ""
    return f'<div class="lcl-heading"><h2>{esc(title)}</h2>{below}</div>'


def definition_list(pairs: list[tuple[str, str]]) -> str:
    """A definition list; pairs with an empty value are left out."""
    rows = "".join(f"<div><dt>{esc(name)}</dt><dd>{esc(value)}</dd></div>" for name, value in pairs if value)
    return f'<dl class="lcl-facts">{rows}</dl>'


def fold(title: str, inside: str) -> str:
    """``inside`` behind a line that opens it. It stays open when it is drawn again (page.js)."""
    return f'<details class="lcl-fold"><summary>{esc(title)}</summary><div>{inside}</div></details>'


def item_url(collection: str, item: str) -> str:
    """Address of an image of a collection, relative to the root of the page."""
    return f"media/{quote(collection, safe='')}/{quote(item, safe='')}"


def run_link(run_id: str) -> str:
    """A link to the run in the Runs tab."""
    return f'<a href="?run={quote(run_id, safe="")}">{esc(run_id)}</a>'


def dataset_image_url(dataset: str, image: str) -> str:
    """Address of an image of a dataset, relative to the root of the page."""
    return f"corpus/{quote(dataset, safe='')}/{quote(image)}"


def progress_bar(fraction: float | None, label: str) -> str:
    """A progress bar from 0 to 1; None: extent unknown."""
    if fraction is None:
        return f'<div class="lcl-bar lcl-bar--busy" role="progressbar" aria-label="{esc(label)}"><span></span></div>'
    percent = round(100 * min(1.0, max(0.0, fraction)))
    return (
        f'<div class="lcl-bar" role="progressbar" aria-label="{esc(label)}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}"><span style="width:{percent}%"></span></div>'
    )


def parse_time(iso: str | None) -> datetime | None:
    """An ISO 8601 time; without a zone it is UTC."""
    if not iso:
        return None
    moment = datetime.fromisoformat(iso)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def duration(seconds: float | None) -> str:
    """``95`` -> ``1 min 35 s``; None -> empty."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes < 10 and rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} days"


def ago(iso: str | None, now: datetime | None = None) -> str:
    """``just now``, ``5 min ago``, ``3 h ago``, ``2 days ago``."""
    moment = parse_time(iso)
    if moment is None:
        return ""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    for limit, size, unit in ((60, 0, ""), (3600, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds // size)} {unit} ago" if size else "just now"
    return f"{int(seconds // 86_400)} days ago"


def html_table(label: str, columns: Sequence[str], body: str, modifier: str = "") -> str:
    """A table that the keyboard can scroll. ``body``: rows as HTML; ``label``: for screen readers."""
    head = "".join(f'<th scope="col">{esc(column)}</th>' for column in columns)
    variant = f" lcl-table--{modifier}" if modifier else ""
    return (
        f'<div class="lcl-table{variant}" tabindex="0" role="region" aria-label="{esc(label)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
