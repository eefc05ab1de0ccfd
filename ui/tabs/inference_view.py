"""HTML of the Try tab: captions, predictions with their probabilities, accuracy and confusion, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from api.client.payloads import Json, Skipped
from api.client.zero_shot import LabeledAccuracy, ZeroShotResult, folder_labels, label_accuracy, match_labels
from ui.addresses import address
from ui.html import empty_state, esc, heading, html_table, item_url, skipped_box

SHOWN_CLASSES = 3  # of an image
LARGEST_CONFUSION = 30  # classes
EXAMPLE_CLASSES = 4  # of a list, in words


@dataclass(frozen=True)
class CollectionClasses:
    """Classes and images of a collection: the values of one of its labels.

    Attributes:
        label: its name.
        items: id and name of each image; the folder of the name is its class.
    """

    collection: str
    label: str
    classes: tuple[str, ...]
    items: tuple[tuple[str, Path], ...]


def draw_examples(examples: Sequence[CollectionClasses]) -> str:
    """One button for each list of classes."""
    if not examples:
        return ""
    buttons = "".join(
        f'<li><button type="button" data-pick="{esc(each.label)}"><b>{esc(each.label)}</b>'
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
        f'<tr><th scope="row">{_image_cell(name, image)}</th><td class="lcl-caption">'
        + (f'{esc(text)} <a href="{esc(address(q=text))}">Search with it</a>' if text else "<em>no words</em>")
        + "</td></tr>"
        for name, image, text in captions
    )
    table = html_table("Captions", ("Image", "Caption"), rows, "zero") if captions else ""
    return f'<section class="lcl-zero" role="status">{skipped_box(skipped)}{table}</section>'


def draw_result(
    result: ZeroShotResult, thumbnails: Mapping[int, str], about: str, notes: Sequence[str], seconds: float
) -> str:
    """Accuracy where there are labels, and the predictions of each image.

    Args:
        thumbnails: addresses of small images by their place in the result.
        about: where the images are from.
        notes: what was left out of the classes and templates.
    """
    labels = folder_labels(result.names)
    accuracy = label_accuracy(result, labels)
    remarks = [*notes, *_label_notes(result, labels, accuracy)]
    listed = "".join(f"<li>{esc(note)}</li>" for note in remarks)
    notes_list = f'<ul class="lcl-remarks" role="status">{listed}</ul>' if listed else ""
    head = heading(
        "Predictions",
        f"{_count(result.names, 'image')} {about} · {len(result.classes)} classes · "
        f"{_count(result.templates, 'template')} · {seconds:.1f} s",
    )
    return (
        f'<section class="lcl-zero" aria-label="Predictions" aria-busy="false">{head}'
        f"{_draw_accuracy(accuracy) if accuracy else ''}{notes_list}"
        f"{skipped_box(result.skipped)}{_draw_predictions(result, labels, thumbnails)}"
        f"{_draw_confusion(result.classes, accuracy) if accuracy else ''}</section>"
    )


def _count(items: Sequence[object], noun: str) -> str:
    return f"{len(items)} {noun}{'s' * (len(items) != 1)}"


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
    columns = ("Image", "Likeliest classes", *(("Label",) if has_labels else ()))
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
    return (
        f'<tr><th scope="row">{_image_cell(name, image)}</th><td><ol class="lcl-likely">{bars}</ol></td>{folder}</tr>'
    )


def _image_cell(name: Path, image: str) -> str:
    small = f'<img src="{esc(image)}" alt="" loading="lazy">' if image else "<i></i>"
    return f"<div>{small}<span>{esc(name.name)}</span></div>"


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
