"""Laws of the source tree beyond who may import what: room order, circles, sizes of modules, names.

Each exception is named in a list here. An entry goes when its reason does.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from lcl_core.jobs import JOBS
from tests.source_tree import ORDER, Module, product, product_imports, room_of

SHORTEST, LONGEST = 120, 600  # lines of a module
FOLDER_MODULES = 25
REGISTRIES = {  # folders whose modules are entries of a registry, however short
    *("api/routes", "api/cli", "ui/tabs", "lcl_core/data/formats", "lcl_core/objectives", "lcl_core/evaluation/tasks"),
    *("lcl_core/evaluation/benchmarks", "lcl_core/dataset_builder/sources", "lcl_core/encoders/export"),
}
# an application factory, one type of encoder, and the entry point of a job: searched for under these names
SMALL_MODULES = {"api/app.py", "lcl_core/encoders/openclip.py", "lcl_core/evaluation/evaluate.py"}
LAZY_IMPORTS = 8  # across rooms; each keeps a heavy library out of a process

# words that hide a mechanism behind a figure of speech, or mean several things at once
VAGUE_FIRST_WORDS = {
    *("look", "tell", "told", "take", "took", "note", "noted", "hold", "give", "gave", "given", "leave", "ask"),
    *("asked", "hear", "say", "said", "sit", "teach", "taught", "lay", "laid", "ring", "beat", "enrol"),
    *("strangers", "twin", "twins", "apart", "ahead", "shown", "spoken", "stand", "standing", "wanted"),
    *("found", "goes", "comes"),
}
VAGUE_PHRASES = ("place_of", "places_of", "facts_of", "words_of")
VAGUE_CLASSES = {
    *("Errand", "Keeper", "Slots", "Verdict", "HandBack", "Ending", "Watch", "Unsaved", "Courier", "Carrier"),
    *("Reaper", "Collector", "Ringer", "Census", "Doorbell", "Parcel", "Deposit", "Depot", "Shelf", "Supply"),
    *("Seat", "Call", "Loss", "Crew", "Tick", "Tally", "Family", "Moved", "Opened", "Wanted", "Asked", "Told"),
    *("Found", "Came", "Room", "Place", "Places", "Ground", "Course", "Graduate", "Lesson", "Syllabus", "Exam"),
    *("Pupil", "Speaker", "Talker", "Album", "Rivals", "Sheet", "Ledger", "Desk", "Forest", "Half", "Overlay"),
    *("Elsewhere", "Ask", "Piece", "Pieces", "Material", "Standing", "Cell", "Draft", "Odd", "Outline"),
    *("Repeats", "Origin", "Sight", "Reading", "Blanks", "Joint", "Offer", "Sum", "Ratio", "Like", "Mix"),
    *("Past", "Gate", "Visitor", "OwnKey", "OwnOrigin", "Envelope", "Guard", "Throttle", "Caller", "Callers"),
    *("Known",),
}
VAGUE_MODULES = {
    *("additions", "admission", "ahead", "albums", "answers", "apart", "ask", "asked", "beside", "bridge"),
    *("callers", "carrier", "census", "changed", "comes", "collector", "courier", "course", "crew"),
    *("customers", "depot", "deposits", "desk", "doorbell", "elsewhere", "estate", "existing", "facts"),
    *("foreign", "found", "gallery", "gate", "ground", "handover", "held", "house", "inheritance", "keeping"),
    *("kept", "ledger", "lessons", "likeness", "look", "mixture", "notes", "obstacles", "offers", "orders"),
    *("origins", "outlook", "past", "pieces", "places", "pupil", "reaper", "repeats", "ringer", "roster"),
    *("sheet", "shelf", "shown", "sight", "slots", "speaker", "spread", "standing", "successors", "supply"),
    *("syllabus", "tally", "tether", "thrifty", "told", "town", "tower", "towers", "twins", "verdict"),
    *("verdicts", "visitors", "wares", "watchbook", "welcome", "wishes", "words"),
}


def at(module: Module, node: ast.AST) -> str:
    return f"{module.file}:{node.lineno}"  # type: ignore[attr-defined]


def definitions() -> Iterator[tuple[Module, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    for module in product().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield module, node


def test_a_room_imports_from_rooms_below_it() -> None:
    upward = defaultdict(list)
    for name, imported in product_imports().items():
        for each in imported:
            rooms = room_of(name), room_of(each.target)
            if ORDER.index(rooms[1]) < ORDER.index(rooms[0]):
                upward[rooms].append(f"{product()[name].file}:{each.line} imports {each.target}")
    assert not upward


def circles() -> list[set[str]]:
    """Strongly connected modules, lazy imports included and imports for type checkers left out (Tarjan)."""
    graph = {name: {each.target for each in found if not each.typing} for name, found in product_imports().items()}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in graph[name]:
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            start = stack.index(name)
            if len(stack) - start > 1:
                found.append(set(stack[start:]))
            del stack[start:]

    for name in graph:
        if name not in index:
            visit(name)
    return found


def test_no_import_circle() -> None:
    assert not circles()


def test_few_lazy_imports_across_rooms() -> None:
    lazy = [
        f"{product()[name].file}:{each.line} imports {each.target}"
        for name, imported in product_imports().items()
        for each in imported
        if each.lazy and not each.typing and room_of(name) != room_of(each.target)
    ]
    assert len(lazy) <= LAZY_IMPORTS, "\n".join(lazy)


def test_a_public_class_name_is_unique() -> None:
    files = defaultdict(set)
    for module in product().values():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files[node.name].add(module.file)
    assert not {name: sorted(found) for name, found in files.items() if len(found) > 1}


def test_a_short_module_has_importers_outside_its_folder() -> None:
    importers = defaultdict(set)
    for name, imported in product_imports().items():
        for each in imported:
            importers[each.target].add(name)
    small = set()
    for name, module in product().items():
        folder = module.path.parent
        if module.is_entry or module.lines >= SHORTEST:
            continue
        others = importers[name]
        if len(others) == 1 and product()[next(iter(others))].path.parent == folder:
            small.add(module.file)
    paragraphs = {file for file in small if file.rpartition("/")[0] not in REGISTRIES}
    assert not paragraphs - SMALL_MODULES, "merge each into its one importer"


def test_no_module_is_too_long_and_no_folder_too_full() -> None:
    assert not [f"{module.file}: {module.lines}" for module in product().values() if module.lines > LONGEST]
    folders = Counter(module.path.parent for module in product().values() if not module.is_entry)
    assert not {str(folder): count for folder, count in folders.items() if count > FOLDER_MODULES}


def is_vague(name: str, *, is_class: bool) -> bool:
    bare = name.lstrip("_")
    if is_class:
        return bare in VAGUE_CLASSES
    return re.split(r"_", bare)[0] in VAGUE_FIRST_WORDS or bare.startswith(VAGUE_PHRASES)


def test_names_say_what_they_mean() -> None:
    vague = [
        f"{at(module, node)} {node.name}"
        for module, node in definitions()
        if is_vague(node.name, is_class=isinstance(node, ast.ClassDef))
    ]
    vague += [module.file for name, module in product().items() if name.rpartition(".")[2] in VAGUE_MODULES]
    assert not vague, "\n".join(vague)


@pytest.mark.parametrize(
    ("name", "is_class", "caught"),
    [
        *(("_told", False, True), ("take_turn", False, True), ("takes", False, False), ("read", False, False)),
        *(("Place", True, True), ("_Ledger", True, True), ("Placement", True, False)),
    ],
)
def test_a_vague_name_is_seen(name: str, is_class: bool, caught: bool) -> None:
    assert is_vague(name, is_class=is_class) is caught


@pytest.mark.parametrize("kind", JOBS)
def test_a_job_kind_is_one_entry(kind: str) -> None:
    """Its spec validates, its module can be started, and its form names fields of its spec."""
    job = JOBS[kind]
    assert find_spec(job.module) is not None
    schema = job.spec_class().model_json_schema()
    assert {path.partition(".")[0] for path in job.main_fields} <= schema["properties"].keys()
    assert job.output is None or job.output.noun in ("encoder", "collection", "dataset")
