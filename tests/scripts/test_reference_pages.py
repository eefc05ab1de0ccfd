"""The generated reference: every field, setting and command is in it, with words of its own."""

import re
import subprocess
import sys

import pytest

from api.cli.spec_fields import spec_fields
from lcl_core.common.settings import API_NAMES, SHARED_NAMES, UI_NAMES, WORKER_NAMES
from lcl_core.jobs import JOBS
from lcl_core.specs.base import presets
from lcl_core.specs.parsing import SPECS
from lcl_core.specs.study import StudySpec
from scripts import reference_pages as reference

pytestmark = pytest.mark.extended

SCHEMAS = {kind: model.model_json_schema() for kind, model in (*SPECS.items(), ("study", StudySpec))}


@pytest.fixture(scope="module")
def pages():
    return reference.reference_pages()


def row(page, first):
    """The cells of a row of a table, by its first."""
    (found,) = [line for line in page.splitlines() if line.startswith(f"| `{first}` |")]
    return [part.strip() for part in re.split(r"(?<!\\)\|", found)[1:-1]]


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_field_of_a_spec_has_a_row_with_its_meaning(pages, kind):
    page = pages[f"reference/spec_{kind}"]
    paths = {field.path for field in spec_fields(SCHEMAS[kind])}
    assert {path.partition(".")[0].removesuffix("[]") for path in paths} == SCHEMAS[kind]["properties"].keys()
    explained = [f for f in spec_fields(SCHEMAS[kind]) if f.meaning and f"| `{f.path}` |" in page]
    missing = paths - {field.path for field in explained}
    assert missing == set()


def test_a_row_has_type_range_default_and_meaning(pages):
    page = pages["reference/spec_pretrain"]
    assert row(page, "model.patch_size")[1:] == [
        "integer; ≥ 2; ≤ 128",
        "`16`",
        "side of a patch, pixels; divides image\\_size",
    ]
    assert row(page, "precision")[1:3] == ["choice; `auto`, `fp32`, `bf16`", '`"auto"`']
    assert row(page, "data.sources[].dataset")[2] == '`"sample"`'
    assert row(page, "model")[2] == "", "the fields of an object have the defaults"
    assert row(pages["reference/spec_index"], "encoder")[2] == "required"


@pytest.mark.parametrize("kind", [kind for kind in (*JOBS, "study") if presets(kind)])
def test_every_preset_is_named_with_what_it_is(pages, kind):
    for name, description in reference.preset_descriptions(kind).items():
        assert len(row(pages[f"reference/spec_{kind}"], name)[1]) > 20, f"{kind}/{name} has no description"
        assert description


def test_every_setting_has_a_row_with_its_meaning(pages):
    names = " ".join((SHARED_NAMES, API_NAMES, WORKER_NAMES, UI_NAMES)).split()
    known = {each.variable for _, _, model, base in reference.PARTS for each in reference.settings(model, base)}
    assert {f"LCL_{name}" for name in names} - {"LCL_DATA_CACHE", "LCL_DATA_CACHE_BYTES"} == known
    for variable in known:
        assert f"| `{variable}` |" in pages["reference/settings"]
    every = [each for _, _, model, base in reference.PARTS for each in reference.settings(model, base)]
    assert [each.variable for each in every if not each.meaning] == []


def test_a_setting_has_its_range_and_default_and_no_folder_of_this_machine(pages):
    assert row(pages["reference/settings"], "LCL_API_PORT")[1:3] == ["≥ 0; ≤ 65,535", "`8765`"]
    assert row(pages["reference/settings"], "LCL_HOME")[2] == "`~/.lcl`"
    assert str(reference.ROOT) not in "".join(pages.values())


def test_no_torch_is_needed():
    """As where the image's documentation is built."""
    script = "import sys; sys.modules['torch'] = None; from scripts import reference_pages as r; r.reference_pages()"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=reference.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_command_has_its_place(pages):
    from api.cli import app

    named = [words for words, _ in reference.commands(reference.get_command(app))]
    assert len(named) > 40
    for words in named:
        assert f"## lcl {words}\n" in pages["reference/commands"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a <pad> | b_c", "a \\<pad\\> \\| b\\_c"),
        ("one `x|y_z` two", "one `x\\|y_z` two"),
        ("lines\n  are joined", "lines are joined"),
        ("``a_b`` [1] {x}", "``a_b`` \\[1\\] \\{x\\}"),
    ],
)
def test_text_of_the_code_is_no_markup(text, shown):
    assert reference.cell(text) == shown
