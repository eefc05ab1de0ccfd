"""The notebook's cells run in their order against a service that the launcher started; the site shows it as a page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.local_stack import LocalStack
from scripts.build_docs import page_text, staged_name, staged_text

pytestmark = pytest.mark.extended

ROOT = Path(__file__).parents[2]
NOTEBOOK = "docs/notebooks/first_hour.ipynb"
STEPS = 12


def cells(kind: str) -> list[dict[str, Any]]:
    notebook = json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_no_output_is_stored() -> None:
    assert [(cell["outputs"], cell["execution_count"]) for cell in cells("code")] == [([], None)] * len(cells("code"))


def test_the_site_has_it_as_a_page_with_the_notebook_for_download() -> None:
    assert staged_name(NOTEBOOK) == "notebooks/first_hour.md"
    page = staged_text(NOTEBOOK, page_text(NOTEBOOK))
    assert page.startswith("# The first hour")
    assert "(first_hour.ipynb)" in page
    assert "(../quickstart_researcher.md)" in page
    assert page.count("```python") == len(cells("code"))


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalStack]:
    monkeypatch.setenv("LCL_WELCOME", "true")  # as for a reader; other tests have it off
    with LocalStack(tmp_path / ".lcl", log=print, ports=(0, 0)) as stack:
        with stack.client() as client:
            deadline = time.monotonic() + 600
            while not any(found["name"] == "sample-drawings" for found in client.collections()):
                assert time.monotonic() < deadline, "the sample was not indexed"
                time.sleep(1)
        yield stack


@pytest.mark.e2e
@pytest.mark.timeout(1800)
def test_the_cells_run(stack: LocalStack, tmp_path: Path) -> None:
    script = "\n".join("".join(cell["source"]) for cell in cells("code"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LCL_")}
    own = {"LCL_API_URL": stack.api_url, "LCL_HOME": str(tmp_path / ".lcl"), "LCL_NOTEBOOK_STEPS": str(STEPS)}
    done = subprocess.run(
        [sys.executable, "-"], input=script, cwd=tmp_path, env={**kept, **own, "NO_PROXY": "*"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "succeeded enc_" in done.stdout
    assert "retrieval of drawings-v5: 0." in done.stdout
    assert "['kept', 'notebook'] first training; last loss" in done.stdout
