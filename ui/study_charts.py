"""Charts of a study: what each row costs and gives, and how its training went. Rows keep their colour everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ui.charts import COLOURS, Frame, Point, frame_of, path_of, thin, x_axis, y_axis
from ui.html import esc, number

Json = Mapping[str, Any]
COST_WORDS = {
    "seconds": "seconds of training",
    "images_seen": "pictures seen",
    "tokens_seen": "tokens seen",
    "flops": "floating-point operations",
}
WIDE = 8.0  # costs that differ by more than this factor stand on a logarithmic axis
LETTER, LINE = 2.4, 6.5  # width of a letter and height of a line, in percent of a plot
SETTLING = 0.05  # of a curve: its steep beginning does not decide what is seen of the rest
WAITING = '<p class="lcl-note">Waiting for the first figures.</p>'


def row_colour(place: int) -> str:
    """Class, and name of the variable, of a row's colour; they begin again when there are more rows."""
    return f"lcl-c{place % COLOURS}"


def row_name(row: Json) -> str:
    """A row of a table in a few words."""
    words = list(row["labels"].values()) + ([f"rung {row['rung']}"] if row.get("rung") is not None else [])
    return " ".join(words) or "all"


def cost_chart(table: Json, head: str) -> str:
    """A metric over its cost: a point a row with its deviation, and the Pareto front through the best at each cost."""
    compute = table["compute"]
    rows = [(place, row, row["figures"][head], row["compute"][compute]) for place, row in _known(table, head)]
    title = f"{head} over {COST_WORDS[compute]}"
    if not rows:
        return _figure(title, WAITING)
    log = _spans_widely([cost for *_, cost in rows])
    at = {place: (_scaled(cost, log), figure["mean"]) for place, _, figure, cost in rows}
    frame = _padded(frame_of([*at.values(), *_whiskers(at, rows)]))
    law = _law(table, head, frame, log)
    front = _steps([at[place] for place in table["pareto"][head] if place in at])
    lines = f'<path class="lcl-line lcl-line--front" d="{path_of(front, frame)}"/>' + law
    spots = {place: _spot(point, frame) for place, point in at.items()}
    sides = label_sides([(*spots[place], row_name(row)) for place, row, *_ in rows])
    points = "".join(
        _point(spots[place], side, frame, place, row, figure, cost, head)
        for (place, row, figure, cost), side in zip(rows, sides, strict=True)
    )
    words = ", ".join(f"{row_name(row)} {number(figure['mean'], 3)}" for _, row, figure, _ in rows)
    plot = _plot(f"{title}: {words}", frame, lines, points, _log_axis(frame) if log else x_axis(frame))
    return _figure(title, plot, "dashed: Pareto front" + ("; dotted: power law" if law else ""))


def curves_chart(curves: Json, title: str) -> str:
    """The training of every row, the mean over its seeds."""
    drawn = [
        (place, [(point[0], point[1]) for point in row["points"] if math.isfinite(point[1])])
        for place, row in enumerate(curves["rows"])
    ]
    drawn = [(place, points) for place, points in drawn if len(points) > 1]
    if not drawn:
        return _figure(title, WAITING)
    last = max(points[-1][0] for _, points in drawn)
    settled = [point for _, points in drawn for point in points if point[0] >= SETTLING * last]
    left, right, bottom, top = frame_of(settled)
    frame = (0.0, max(right, left + 1), bottom, top)
    lines = "".join(
        f'<path class="lcl-line" style="stroke:var(--{row_colour(place)})" d="{path_of(thin(points, 200), frame)}">'
        f"<title>{esc(row_name(curves['rows'][place]))}</title></path>"
        for place, points in drawn
    )
    ends = ", ".join(f"{row_name(curves['rows'][place])} {number(points[-1][1], 3)}" for place, points in drawn)
    return _figure(title, _plot(f"{title}, at the end: {ends}", frame, lines, "", x_axis(frame)), "over steps")


def _known(table: Json, head: str) -> list[tuple[int, Json]]:
    compute = table["compute"]
    return [
        (place, row)
        for place, row in enumerate(table["rows"])
        if head in row["figures"] and row["compute"][compute] is not None
    ]


def _whiskers(at: Mapping[int, Point], rows: Sequence[tuple[int, Json, Json, float]]) -> list[Point]:
    """Both ends of each deviation."""
    spread = [(place, figure["mean"], figure["sd"] or 0.0) for place, _, figure, _ in rows]
    return [(at[place][0], mean + sign * sd) for place, mean, sd in spread for sign in (-1, 1)]


def _spans_widely(costs: Sequence[float]) -> bool:
    return min(costs) > 0 and max(costs) > WIDE * min(costs)


def _scaled(cost: float, log: bool) -> float:
    return math.log10(cost) if log else cost


def _padded(frame: Frame) -> Frame:
    left, right, bottom, top = frame
    room = 0.07 * (right - left)
    return left - room, right + room, bottom, top


def _steps(points: Sequence[Point]) -> list[Point]:
    """A line that keeps its height until the next point: nothing is promised in between."""
    line: list[Point] = []
    for x, y in points:
        line += [(x, line[-1][1]), (x, y)] if line else [(x, y)]
    return line


def _law(table: Json, head: str, frame: Frame, log: bool) -> str:
    """The power law as a line; not over seconds, which say more about the machine than about the work."""
    law = table["fits"][head]
    if law is None or table["compute"] == "seconds" or law["interval"] is None:
        return ""
    left, right = frame[:2]
    places = [left + (right - left) * step / 40 for step in range(41)]
    points = [(x, law["factor"] * (10**x if log else max(x, 1e-9)) ** law["exponent"]) for x in places]
    low, high = law["interval"]
    words = f"∝ cost^{law['exponent']:.3f}, 95 %: {low:.3f} to {high:.3f}"
    path = path_of(points, frame)
    return f'<path class="lcl-line lcl-line--law" d="{path}"><title>{esc(words)}</title></path>'


def label_sides(spots: Sequence[tuple[float, float, str]]) -> list[str]:
    """Where each point's name stands so that it covers nothing: right, left, above, below, or (none) nowhere.

    Args:
        spots: (x, y, name), in percent of the plot, from its left and its top.
    """
    taken = [(x - 2.5, y - 2.5, x + 2.5, y + 2.5) for x, y, _ in spots]
    sides = []
    for x, y, name in spots:
        boxes = {side: _label_box(x, y, name, side) for side in ("right", "left", "above", "below")}
        side = next((side for side, box in boxes.items() if _is_free(box, taken)), "none")
        if side != "none":
            taken.append(boxes[side])
        sides.append(side)
    return sides


def _label_box(x: float, y: float, name: str, side: str) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a name beside its point."""
    wide, high = LETTER * len(name), LINE
    left = {"right": x + 3.5, "left": x - 3.5 - wide}.get(side, x - wide / 2)
    top = {"above": y - 3.5 - high, "below": y + 3.5}.get(side, y - high / 2)
    return left, top, left + wide, top + high


def _is_free(box: tuple[float, float, float, float], taken: Sequence[tuple[float, float, float, float]]) -> bool:
    left, top, right, bottom = box
    inside = left >= -2 and right <= 102 and top >= -2 and bottom <= 102
    apart = (right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top for other in taken)
    return inside and all(apart)


def _spot(point: Point, frame: Frame) -> Point:
    """In percent from the plot's left and top."""
    left, right, bottom, top = frame
    return 100 * (point[0] - left) / (right - left), 100 * (top - point[1]) / (top - bottom)


def _point(
    spot: Point, side: str, frame: Frame, which: int, row: Json, figure: Json, cost: float, head: str
) -> str:
    (x, y), (_, _, bottom, top) = spot, frame
    tall = 200 * (figure["sd"] or 0.0) / (top - bottom)
    spread = "" if figure["sd"] is None else f" ± {number(figure['sd'], 2)}"
    words = f"{row_name(row)}: {head} {number(figure['mean'], 3)}{spread} at {number(float(f'{cost:.3g}'))}"
    name = "" if side == "none" else f'<span class="lcl-{side}">{esc(row_name(row))}</span>'
    return (
        f'<i class="lcl-whisker {row_colour(which)}" style="left:{x:.2f}%;top:{y - tall / 2:.2f}%;height:{tall:.2f}%">'
        f'</i><i class="lcl-mark-point {row_colour(which)}" style="left:{x:.2f}%;top:{y:.2f}%" '
        f'title="{esc(words)}">{name}</i>'
    )


def _log_axis(frame: Frame) -> str:
    """Numbers 1, 2 and 5 of every order of magnitude, below a logarithmic plot."""
    left, right = frame[:2]
    exponents = range(math.floor(left), math.ceil(right) + 1)
    values = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
    shown = [value for value in values if left <= math.log10(value) <= right]
    return "".join(
        f'<span class="lcl-tick lcl-tick--x" style="left:{100 * (math.log10(value) - left) / (right - left):.2f}%">'
        f"{_short(value)}</span>"
        for value in shown
    )


def _short(value: float) -> str:
    return f"{value:.0e}".replace("e+0", "e").replace("e+", "e") if value >= 1e6 else number(value)


def _plot(words: str, frame: Frame, lines: str, points: str, axis: str) -> str:
    return (
        f'<div class="lcl-plot lcl-plot--tall" role="img" aria-label="{esc(words)}">{y_axis(frame)}'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{lines}</svg>{points}{axis}</div>'
    )


def _figure(title: str, inside: str, hint: str = "") -> str:
    note = f"<em>{esc(hint)}</em>" if hint else ""
    return f'<figure class="lcl-chart"><figcaption><span>{esc(title)}</span>{note}</figcaption>{inside}</figure>'
