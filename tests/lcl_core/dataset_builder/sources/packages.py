"""What is in two small packages' place: emoji as npm ships them, stamps as Debian does."""

from __future__ import annotations

import json
from typing import Any

from lcl_core.dataset_builder.documents import hash_fraction
from lcl_core.dataset_builder.sources.emoji import HELD_OUT
from lcl_core.dataset_builder.sources.icons import SETS as ICON_SETS
from tests.lcl_core.dataset_builder.conftest import draw_image

Files = dict[str, bytes | str]
NAMES = [f"thing {number}" for number in range(60)]
SEEN, UNSEEN = (
    [name for name in NAMES if (hash_fraction(f"concept:{name}") < HELD_OUT) is unseen] for unseen in (False, True)
)
_ICON_NAMES = [f"{letter}ight tool" for letter in "abcdefghijklmnopqrstuvwxyz"]
SEEN_ICONS = [name for name in _ICON_NAMES if hash_fraction(f"concept:{name}") >= HELD_OUT][:2]
UNSEEN_ICON = next(name for name in _ICON_NAMES if hash_fraction(f"concept:{name}") < HELD_OUT)
COPYRIGHT = "Copyright: the stamps' artists. License: GPL-2\n"
_COLOURS = ("red", "green", "blue")


def _entry(number: int, name: str, **more: Any) -> dict[str, Any]:
    facts = {"hexcode": f"1F60{number:X}-FE0F", "label": name, "tags": ["shiny", name], "group": 7, "subgroup": 0}
    return {**facts, **more}


def _iconify(left: int) -> Files:
    """Three drawings. ``left``: no two teams draw alike, or a test image would repeat a training image."""
    bodies = {
        f"icon-{number}": {"body": f'<rect x="{left}" width="9" height="16" fill="{colour}"/>'}
        for number, colour in enumerate(_COLOURS)
    }
    return {
        "icons.json": json.dumps({"icons": bodies, "width": 16, "height": 16}),
        "chars.json": json.dumps({f"1f60{number}": f"icon-{number}" for number in range(3)}),
    }


def _emoji() -> dict[str, Files]:
    """Three concepts, the last one held out, that a training, the validating and a testing team drew."""
    entries = [_entry(number, name) for number, name in enumerate([*SEEN[:2], UNSEEN[0]])]
    entries += [_entry(8, "light skin", group=2), {"hexcode": "1F609", "label": "no group"}]
    messages = {"subgroups": [{"order": 0, "message": "tool-and-toy"}]}
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7"/></svg>'
    return {
        "emojibase-data": {"en/data.json": json.dumps(entries), "en/messages.json": json.dumps(messages)},
        "@iconify-json/twemoji": {**_iconify(0), "info.json": '{"author": "Twitter"}'},
        "@iconify-json/streamline-emojis": _iconify(6),
        "@iconify-json/noto": {"icons.json": '{"icons": {}}', "chars.json": "{}"},
        "@iconify-json/noto-v1": {"icons.json": '{"icons": {}}', "chars.json": "{}"},
        "@iconify-json/emojione": {"icons.json": '{"icons": {}}', "chars.json": "{}"},
        "@iconify-json/emojione-v1": {"icons.json": '{"icons": {}}', "chars.json": "{}"},
        "@iconify-json/fxemoji": {"icons.json": '{"icons": {}}', "chars.json": "{}"},
        "@iconify-json/fluent-emoji-flat": {"icons.json": '{"icons": {}}', "chars.json": "{}"},
        "openmoji": {f"color/svg/1F60{number}.svg": svg for number in (0, 2)},
    }


def _stamps() -> dict[str, Files]:
    root = "usr/share/tuxpaint/stamps/animals"
    files: Files = {"usr/share/doc/tuxpaint-stamps-default/copyright": COPYRIGHT}
    for number in range(12):
        files[f"{root}/bird{number}.png"] = draw_image(f"#{number * 20:02x}4080")
        files[f"{root}/bird{number}.txt"] = f"Bird number {number}."
    return {"tuxpaint-stamps-default": files}


def _icons() -> dict[str, Files]:
    """Two icons and a held-out one of a training team, two of a validating team; no other team drew any."""

    def drawn(left: int, *names: str) -> dict[str, str]:
        bodies = {
            name.replace(" ", "-"): {"body": f'<rect x="{left}" width="{5 + at}" height="16" fill="currentColor"/>'}
            for at, name in enumerate(names)
        }
        categories = {"Tools": list(bodies)}
        icons = {"icons": bodies, "width": 16, "height": 16}
        return {"icons.json": json.dumps(icons), "metadata.json": json.dumps({"categories": categories})}

    files: dict[str, Files] = {each.package.name: {"icons.json": '{"icons": {}}'} for each in ICON_SETS}
    files["@iconify-json/game-icons"] = {**drawn(0, *SEEN_ICONS, UNSEEN_ICON), "info.json": '{"author": "GameIcons"}'}
    files["@iconify-json/guidance"] = {**drawn(8, SEEN_ICONS[0], UNSEEN_ICON)}
    return files


EMOJI, STAMPS, ICONS = _emoji(), _stamps(), _icons()
