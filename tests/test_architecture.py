"""Laws of the source tree: who may import what, sizes of modules and functions, names, and the project's ceilings.

The contracts of imports are in ``pyproject.toml`` (``[tool.importlinter]``).
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter, defaultdict
from importlib.util import find_spec
from pathlib import Path

import pytest

from lcl_core.jobs import JOBS

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("api", "workers", "lcl_core", "ui", "deploy")
SHORTEST, LONGEST, LONGEST_FUNCTION, FOLDER_MODULES, LAZY_IMPORTS = 120, 600, 120, 25, 8
REGISTRIES = {  # folders whose modules are entries of a registry, however short
    *("api/routes", "api/cli", "ui/tabs", "lcl_core/data/formats", "lcl_core/objectives", "lcl_core/evaluation/tasks"),
    "lcl_core/encoders/export",
}
# an application factory, one type of encoder, and the entry point of a job: searched for under these names
SMALL_MODULES = {
    *("api/app.py", "api/services/request_images.py", "deploy/embedded_redis.py"),
    *("lcl_core/encoders/timm.py", "lcl_core/evaluation/evaluate.py"),
    "lcl_core/train/optimizer.py",
}

# The project's ceilings. They are lowered when something was removed, and never raised.
MOST_FILES, MOST_LINES, MOST_TEST_LINES, MOST_WORDS, MOST_FILES_OF_A_FLOW = 334, 65_100, 64_600, 57_500, 14

# words that hide a mechanism behind a figure of speech, or mean several things at once
VAGUE_FIRST_WORDS = {
    *("look", "tell", "told", "take", "took", "note", "noted", "hold", "give", "gave", "given", "leave", "ask"),
    *("asked", "hear", "say", "said", "sit", "teach", "taught", "lay", "laid", "ring", "beat", "enrol"),
    *("strangers", "twin", "twins", "apart", "ahead", "shown", "spoken", "stand", "standing", "wanted"),
    *("found", "goes", "comes", "place_of", "places_of", "facts_of", "words_of"),
}
VAGUE_CLASSES = {
    *("Errand", "Keeper", "Slots", "Verdict", "HandBack", "Ending", "Watch", "Unsaved", "Courier", "Carrier"),
    *("Reaper", "Collector", "Ringer", "Census", "Doorbell", "Parcel", "Deposit", "Depot", "Shelf", "Supply"),
    *("Seat", "Call", "Loss", "Crew", "Tick", "Tally", "Family", "Moved", "Opened", "Wanted", "Asked", "Told"),
    *("Found", "Came", "Room", "Place", "Places", "Ground", "Course", "Pupil", "Speaker", "Album", "Rivals"),
    *("Sheet", "Ledger", "Desk", "Forest", "Half", "Overlay", "Elsewhere", "Ask", "Piece", "Pieces", "Material"),
    *("Standing", "Cell", "Draft", "Odd", "Outline", "Repeats", "Origin", "Sight", "Reading", "Blanks", "Joint"),
    *("Offer", "Sum", "Ratio", "Like", "Mix", "Past", "Gate", "Visitor", "Envelope", "Guard", "Throttle", "Known"),
}
TREES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for folder in PRODUCT
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "versions" not in path.parts
}
LINES = {file: (ROOT / file).read_text(encoding="utf-8").count("\n") for file in TREES}
ENTRIES = ("__init__.py", "__main__.py")


def module_of(file):
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_of(file): file for file in TREES}


def room_of(file):
    return "/".join(file.split("/")[: 2 if file.startswith("lcl_core/") else 1])


def imports_of(file):
    """File, line, and whether inside a function, of each import of another module of the product."""

    def visit(node, lazy):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            names = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                package = file.rpartition("/")[0].split("/")
                above = package[: len(package) - child.level + 1] if child.level else []
                base = ".".join([*above, *filter(None, [child.module])])
                names = [f"{base}.{alias.name}" for alias in child.names]
            for name in names:
                target = MODULES.get(name) or MODULES.get(name.rpartition(".")[0])
                if target and target != file:
                    yield target, child.lineno, lazy
            yield from visit(child, lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    return visit(TREES[file], False)


def definitions():
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield file, node


def test_contracts_of_imports_are_kept():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_few_lazy_imports_across_rooms():
    lazy = [
        f"{file}:{line} imports {target}"
        for file in TREES
        for target, line, inside in imports_of(file)
        if inside and room_of(file) != room_of(target)
    ]
    assert len(lazy) <= LAZY_IMPORTS, "\n".join(lazy)


def test_a_public_class_name_is_unique():
    files = defaultdict(set)
    for file, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files[node.name].add(file)
    assert not {name: sorted(found) for name, found in files.items() if len(found) > 1}


def test_a_short_module_has_importers_outside_its_folder():
    importers = defaultdict(set)
    for file in TREES:
        for target, _, _ in imports_of(file):
            importers[target].add(file)
    small = {
        file
        for file in TREES
        if not file.endswith(ENTRIES) and LINES[file] < SHORTEST and len(importers[file]) == 1
        if file.rpartition("/")[0] == next(iter(importers[file])).rpartition("/")[0]
        if file.rpartition("/")[0] not in REGISTRIES
    }
    assert not small - SMALL_MODULES, "merge each into its one importer"


def test_no_function_or_module_is_too_long_and_no_folder_too_full():
    assert not [f"{file}: {lines}" for file, lines in LINES.items() if lines > LONGEST]
    long = [f"{file}:{node.lineno} {node.name}" for file, node in definitions() if not isinstance(node, ast.ClassDef)
            if node.end_lineno - node.lineno >= LONGEST_FUNCTION]  # fmt: skip
    assert not long
    folders = Counter(file.rpartition("/")[0] for file in TREES if not file.endswith(ENTRIES))
    assert not {folder: count for folder, count in folders.items() if count > FOLDER_MODULES}


def test_names_say_what_they_mean():
    vague = []
    for file, node in definitions():
        bare = node.name.lstrip("_")
        if bare in VAGUE_CLASSES if isinstance(node, ast.ClassDef) else bare.split("_")[0] in VAGUE_FIRST_WORDS:
            vague.append(f"{file}:{node.lineno} {node.name}")
    assert not vague, "\n".join(vague)


@pytest.mark.parametrize("kind", JOBS)
def test_a_job_kind_is_one_entry(kind):
    """Its spec validates, its module can be started, and its form names fields of its spec."""
    job = JOBS[kind]
    assert find_spec(job.module) is not None
    schema = job.spec_class().model_json_schema()
    assert {path.partition(".")[0] for path in job.main_fields} <= schema["properties"].keys()
    assert job.output is None or job.output.noun in ("encoder", "collection", "dataset")


def test_the_product_stays_below_its_ceilings():
    listed = subprocess.run(["git", "ls-files", "*.py", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    texts = {
        file: (ROOT / file).read_text(encoding="utf-8") for file in listed.stdout.split() if (ROOT / file).exists()
    }
    test_lines = sum(text.count("\n") for file, text in texts.items() if re.match(r"tests/.*\.py$", file))
    words = sum(len(text.split()) for file, text in texts.items() if re.match(r"(?!tests/|lcl_core/).*\.md$", file))
    assert len(TREES) <= MOST_FILES
    assert sum(LINES.values()) <= MOST_LINES
    assert test_lines <= MOST_TEST_LINES
    assert words <= MOST_WORDS


PATH = re.compile(r"`((?:api|workers|lcl_core|ui|deploy|benchmarks|tests|docs)/[\w./{},]*)`")


def test_architecture_md_names_what_exists_and_short_flows():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert not [path for path in PATH.findall(text) if "NAME" not in path and not (ROOT / path).exists()]
    rooms = [f"lcl_core/{entry.name}/" for entry in (ROOT / "lcl_core").iterdir() if (entry / "__init__.py").is_file()]
    assert not [room for room in rooms if f"`{room}`" not in text.split("## Six flows")[0]]
    parts = re.split(r"\*\*\((\w)\)", text.split("## Six flows")[1].split("\n## ")[0])[1:]
    flows = dict(zip(parts[::2], parts[1::2], strict=True))
    assert sorted(flows) == list("abcdef")
    files = {letter: {path for path in PATH.findall(flow) if path.endswith(".py")} for letter, flow in flows.items()}
    assert not {letter: len(found) for letter, found in files.items() if not 5 <= len(found) <= MOST_FILES_OF_A_FLOW}
