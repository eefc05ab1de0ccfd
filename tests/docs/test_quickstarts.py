"""The three quickstarts are run as written, in a reader's folder, against a service that the launcher started.

What is left out is named with its reason in ``LEFT_OUT``: Docker, GPUs, and the start itself, which the fixture does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from api.core.settings import ApiSettings
from deploy.local_stack import LocalStack

ROOT = Path(__file__).parents[2]
LEFT_OUT = {
    r"\bmake up\b": "the fixture starts the same launcher on free ports",
    r"^docker compose ": "tests/deploy checks the compose files and the image; continuous integration has no Docker",
    r" --gpus ": "needs a GPU; the spec is parsed by test_code_blocks.py",
}
PAGES = {
    "quickstart_developer.md": ["make up"],
    "quickstart_researcher.md": ["make up", "--gpus"],
    "quickstart_team.md": ["docker", "docker"],
}
pytestmark = [pytest.mark.extended, pytest.mark.e2e, pytest.mark.timeout(1800)]


class Reader(NamedTuple):
    """A folder like a checkout, and the environment of its shells."""

    folder: Path
    environment: dict[str, str]
    client: Any


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def why_left_out(block: str) -> str | None:
    return next((pattern for pattern in LEFT_OUT if re.search(pattern, block, re.MULTILINE)), None)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "examples", folder / "examples")
    shutil.copy(ROOT / ".env.example", folder)
    (folder / ".venv").symlink_to(sys.prefix, target_is_directory=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LCL_")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LCL_DATA_ROOTS", str(folder / "examples" / "field_guide"))
        patch.setenv("LCL_WELCOME", "true")  # as for a reader; other tests have it off
        with LocalStack(folder / ".lcl", log=print, ports=(0, 0)) as stack, stack.client() as client:
            wait_for_the_sample(client)
            yield Reader(folder, {**kept, "LCL_API_URL": stack.api_url, "NO_PROXY": "*"}, client)


def wait_for_the_sample(client: Any) -> None:
    """Until the collection that a new home indexes by itself can be searched."""
    deadline = time.monotonic() + 600
    while not any(found["name"] == "sample-drawings" for found in client.collections()):
        assert time.monotonic() < deadline, "the sample was not indexed"
        time.sleep(1)


def run(reader: Reader, blocks: list[str], **environment: str) -> str:
    """The blocks in one shell, as a reader types them into one terminal."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "".join(blocks)],
        cwd=reader.folder,
        env={**reader.environment, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_only_what_cannot_run_here_is_left_out(page: str) -> None:
    left_out = [block for block in blocks(page, "sh") if why_left_out(block)]
    assert len(left_out) == len(PAGES[page])
    assert all(word in block for word, block in zip(PAGES[page], left_out, strict=True))
    assert len(blocks(page, "sh")) - len(left_out) >= 3


def test_developer(reader: Reader, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = "quickstart_developer.md"
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    printed = run(reader, [block for block in blocks(page, "sh") if not why_left_out(block)])
    assert "our sailboat" in printed
    assert '"embedding"' in printed
    monkeypatch.chdir(reader.folder)
    monkeypatch.setenv("LCL_API_URL", reader.environment["LCL_API_URL"])
    monkeypatch.setenv("LCL_HOME", str(reader.folder / ".lcl"))
    (code,) = blocks(page, "python")
    names: dict[str, Any] = {}
    exec(compile(code, page, "exec"), names)
    assert len(names["hits"]) == 3
    assert "owl" in names["near"][0]["caption"]
    assert names["code"] == "not_found"
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_team(reader: Reader) -> None:
    secrets, *others = [block for block in blocks("quickstart_team.md", "sh") if not why_left_out(block)]
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    run(reader, [secrets])
    assert (reader.folder / ".env").stat().st_mode & 0o077 == 0, "other users of the machine see no secret"
    lines = (reader.folder / ".env").read_text(encoding="utf-8").splitlines()
    values = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z_]+=", line))  # the last line of a name counts
    assert all(len(values[name]) == 64 for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "LCL_ADMIN_KEY"))
    ApiSettings(team=True, admin_key=values["LCL_ADMIN_KEY"]).check_secrets()
    export = others[0].splitlines()[1]
    assert run(reader, [export, '\nprintf %s "$LCL_API_KEY"']) == values["LCL_ADMIN_KEY"]
    path = f"{reader.folder}/.venv/bin:{reader.environment['PATH']}"  # a machine that has lcl
    printed = run(reader, others, PATH=path, LCL_API_KEY=(reader.folder / ".lcl" / "key").read_text().strip())
    assert "ana" in printed
    assert '"ready":true' in printed.replace(" ", "")


def test_researcher(reader: Reader) -> None:
    printed = run(reader, [block for block in blocks("quickstart_researcher.md", "sh") if not why_left_out(block)])
    assert "no problems" in printed
    assert "field-guide" in printed
    assert {run["name"]: run["state"] for run in reader.client.runs()["items"]}["trial"] == "succeeded"
    assert reader.client.collection("trial")["images"] == 20
    (evaluated,) = [run for run in reader.client.runs()["items"] if run["kind"] == "evaluate"]
    assert evaluated["state"] == "succeeded"
    assert "IR@5" in printed


QUERIES = json.loads((Path(__file__).parent / "queries.json").read_text(encoding="utf-8"))
SHOWN = [
    r'lcl search [\w-]+ "([^"]+)"(?! --(?:image|item))',
    r'search\(\\?"[\w-]+\\?", text=\\?"([^"\\]+)',
    r'"text": "([^"]+)", "(?:k|where)"',
]


def test_every_query_of_the_documentation_is_among_the_forty() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "notebooks").glob("*.ipynb")]
    shown = {query for page in pages for form in SHOWN for query in re.findall(form, page.read_text(encoding="utf-8"))}
    shown -= {"fish"}  # in a collection that does not exist
    named = [*QUERIES["documentation"], *QUERIES["pairs"], *map(without_article, QUERIES["pairs"])]
    assert len(named) == 40
    assert {"a red fish", "a house"} <= shown <= set(named)


def without_article(query: str) -> str:
    return query.split(" ", 1)[1]


def test_queries_find_what_they_name_whether_or_not_they_have_an_article(reader: Reader) -> None:
    def search(query: str, words: list[str]) -> tuple[bool, set[str]]:
        """Is there a right hit among the first three? The hits."""
        hits = reader.client.search("sample-drawings", text=query, k=8)["hits"]
        pattern = re.compile(rf"\b({'|'.join(words)})(s|es)?\b", re.IGNORECASE)
        texts = [" ".join([*hit["captions"], *hit["labels"].values()]) for hit in hits[:3]]
        return any(map(pattern.search, texts)), {hit["id"] for hit in hits}

    right = [search(query, words)[0] for query, words in QUERIES["documentation"].items()]
    differences = []
    for query, words in QUERIES["pairs"].items():
        (one, hits), (other, others) = search(query, words), search(without_article(query), words)
        right += [one, other]
        differences.append(8 - len(hits & others))
    assert all(right[: len(QUERIES["documentation"])])
    found = (
        f"{sum(right)} of 40 have a right hit among the first three; of pairs at most {max(differences)} hits differ"
    )
    assert sum(right) >= 34, found
    assert max(differences) <= 1, found
