"""Units of a game with their descriptions, and articles on their peoples."""

from __future__ import annotations

from typing import Any

from lcl_core.dataset_builder.documents import split_by_hash
from lcl_core.dataset_builder.sources.wesnoth import SOURCE

ROOT = "usr/share/games/wesnoth/1.18/data/core"
ARTICLE = " ".join(f"The {word} thing that they say is this one here." for word in ("first", "second", "third"))
RACES = f'''
[race]
    id=elf
    plural_name= _ "race^Elves"
    description= _ "{ARTICLE} <ref>dst='x' text='Forest'</ref>"
[/race]
[race]
    id=bat
[/race]
'''
NAMES = [
    next(name for name in (f"u{place}x{n}" for n in range(200)) if split_by_hash(f"wes:images/{name}.png") == split)
    for place, split in enumerate(("train", "train", "test"))
]


def unit(name: str, more: str = "", text: str = "It flies at night. It sees well there.") -> str:
    return f'[unit_type]\n    id=x\n    name= _ "unit^{name}"\n{more}\n    description= _ "{text}"\n[/unit_type]\n'


def test_units_become_pairs_and_documents(kit: Any) -> None:
    first, second, held_out = NAMES
    files: dict[str, bytes | str] = {
        f"{ROOT}/units.cfg": RACES,
        f"{ROOT}/units/elves/a.cfg": unit("Bard", f"    race=elf\n    image={second}[1,2].png", ""),
        f"{ROOT}/units/elves/b.cfg": unit("Archer", f'    race=elf\n    profile={first}.png~RC(x)\n    image="s.png"'),
        f"{ROOT}/units/elves/c.cfg": unit("Captain", f'    race=elf\n    image="{held_out}.png"'),
        f"{ROOT}/units/elves/d.cfg": unit("Absent", '    race=elf\n    image="none.png"'),
        f"{ROOT}/units/elves/e.cfg": unit("Escaped", '    race=elf\n    image="../units.png"'),
        f"{ROOT}/units/elves/f.cfg": "[unit_type]\n    id=nameless\n[/unit_type]\n",
        f"{ROOT}/units.png": kit.draw_image("black"),
        f"{ROOT}/images/s.png": kit.draw_image("green"),
    }
    for name, colour in zip(NAMES, ("red", "blue", "gold"), strict=True):
        files[f"{ROOT}/images/{name}.png"] = kit.draw_image(colour)
    built = SOURCE.build(kit.source_files(SOURCE, {"wesnoth-1.18-data": files}))
    assert [(pair.captions, pair.split) for pair in built.pairs] == [
        (("Bard", "Bard"), "train"),
        (("Archer. It flies at night.", "Archer"), "train"),
        (("Captain. It flies at night.", "Captain"), "test"),
    ]
    assert built.pairs[1].labels == {"concept": "Archer", "category": "elf"}
    (document,) = built.documents
    assert document.url == "wesnoth:elves/elf/0.0"
    assert document.sentences == (
        "Elves.",
        "The first thing that they say is this one here.",
        "The second thing that they say is this one here.",
        "The third thing that they say is this one here.",
        "Bard",
        "Archer",
        "It flies at night.",
        "It sees well there.",
    )
    shown = [(placed.image, document.sentences[placed.sentence]) for placed in document.images]
    assert shown == [
        (f"wesnoth/{second}.webp", "Bard"),
        (f"wesnoth/{first}.webp", "Archer"),
        ("wesnoth/s.webp", "It sees well there."),
    ]
