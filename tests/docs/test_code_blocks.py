"""Every block of code in README.md and docs/: Python runs, commands and their options exist, JSON follows its schema.

What needs another machine, a cluster or gigabytes is checked for its form alone: ``FORM_ONLY`` and ``NO_CODE`` say why.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
import torch
import yaml
from PIL import Image
from pydantic import BaseModel
from typer.main import get_command

from api.cli import app
from api.cli.output import build_spec
from api.services.search import SearchRequest
from benchmarks.__main__ import CORE, SERVICE
from lcl_core.specs.data import DataSpec
from lcl_core.specs.parsing import parse_as, parse_spec
from lcl_core.specs.study import StudySpec
from tests.api.conftest import (  # noqa: F401
    collection,
    data_root,
    encoder,
    encoder_dir,
    lcl,
    live_service,
    sample_images,
)
from tests.docs.code_blocks import BLOCKS, ROOT, Block
from workers.settings import WorkerSettings

FORM_ONLY = {
    "cosign": "signs what a registry has",
    "curl": "tests/api/test_serving_guide.py sends the requests of the guide to the encoder",
    "docker": "tests/deploy builds and starts what there is; the files that are named are checked",
    "infinity/bin/pip": "installs another product",
    "kubectl": "needs a cluster; tests/deploy/test_kubernetes.py checks the manifests",
    "kustomize": "needs a cluster; tests/deploy/test_kubernetes.py checks the manifests",
    "python3.11": "makes an environment for another product",
    "ray": "starts a cluster; tests/workers/executors runs on one of this machine",
    "trivy": "scans what a registry has",
}
HARMLESS = {
    "}",
    "ask",
    "ask()",
    "base64",
    "cd",
    "export",
    "image()",
    "printf",
    "tr",
    "umask",
}  # of the shell, or of a function above it


SHELL = [block for block in BLOCKS if block.language == "sh"]

# ---------------------------------------------------------------- Python

# pages whose blocks need files or names of their own; these tests run all blocks of the page
OWN_TESTS = {
    *("docs/client.md", "docs/data.md", "docs/interop.md", "docs/quickstart_developer.md", "docs/serving.md"),
}
PYTHON = [block for block in BLOCKS if block.language == "python" and block.page not in OWN_TESTS]
OTHER_NAMES = {'"drawings"': '"squares"'}  # the collection of the service


def check_readme(names: dict[str, Any]) -> None:
    assert names["model"].dtype == torch.bfloat16  # as it is saved
    assert (names["image"] @ names["text"].T).shape == (1, 1)
    torch.testing.assert_close(names["image"].norm(dim=1), torch.ones(1))


def check_webhook(names: dict[str, Any]) -> None:
    import hashlib
    import hmac
    import time

    at = str(int(time.time()))
    signature = "sha256=" + hmac.new(b"secret", at.encode() + b".{}", hashlib.sha256).hexdigest()
    headers = {"x-lcl-timestamp": at, "x-lcl-signature": signature}
    assert names["ours"]("secret", headers, b"{}")
    assert not names["ours"]("secret", headers, b"[]")


CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "README.md": check_readme,
    "docs/collections.md": lambda names: None,
    "docs/operations.md": check_webhook,
}


@pytest.fixture
def reader(live_service: Any, collection: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A reader's folder: images of the examples' names, the encoder that ships; and a service with a collection."""
    for name in ("LCL_API_URL", "LCL_API_KEY"):
        monkeypatch.setenv(name, live_service.url if name.endswith("URL") else live_service.keys["admin"])
    for name in ("fish", "bird", "nest", "house", "apple", "my-dog"):
        Image.new("RGB", (48, 32), "red").save(tmp_path / f"{name}.png")
    (tmp_path / "lcl_core").mkdir()
    (tmp_path / "lcl_core" / "pretrained").symlink_to(ROOT / "lcl_core" / "pretrained")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", sorted({block.page for block in PYTHON}))
def test_python_runs(reader: Path, page: str) -> None:
    names: dict[str, Any] = {}
    for block in PYTHON:
        if block.page == page:
            text = block.text
            for shown, served in OTHER_NAMES.items():
                text = text.replace(shown, served)
            exec(compile("\n" * (block.line - 1) + text, page, "exec"), names)
    CHECKS[page](names)


# ---------------------------------------------------------------- commands

ROOT_COMMAND: Any = get_command(app)


def statements(text: str) -> Iterator[list[str]]:
    """The words of each command; comments, here-documents and assignments are left out."""
    text = re.sub(r"<<(\w+)\n.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL).replace("\\\n", " ")
    for line in text.splitlines():
        for statement in re.split(r"\s&&\s|;\s|\s\|\s", re.sub(r"(^|\s)#.*", "", line)):
            inner = re.search(r"^\s*\w+=\$\((.*)\)\s*$", statement)
            plain = re.sub(r"\$\{[^}]*\}", "X", re.sub(r"\$\([^)]*\)", "X", inner[1] if inner else statement))
            words = shlex.split(plain)
            while words and re.match(r"^[A-Z_a-z]+=", words[0]):
                words = words[1:]
            if words:
                yield words


def check_lcl(words: list[str], place: str) -> None:
    """Parse as the command line does; a spec in the arguments must be one."""
    words = [word for word in words if word != "--json"]  # which may stand anywhere
    command, path = ROOT_COMMAND, []
    if words == ["--version"]:
        return
    while hasattr(command, "commands"):
        name, *words = words
        assert name in command.commands, f"{place}: there is no lcl {' '.join([*path, name])}"
        command = command.commands[name]
        path.append(name)
    try:
        given = command.make_context(" ".join(path), list(words)).params
    except click.ClickException as error:
        raise AssertionError(f"{place}: lcl {' '.join(path)}: {error.format_message()}") from error
    if path[0] == "submit":
        parse_spec(given["kind"], build_spec(given["spec"], given["preset"], given["assignments"]))


def check_module(words: list[str], place: str) -> None:
    """``python -m MODULE …``: the module exists, and knows its first word and the options."""
    assert words[0] == "-m", place
    module, *rest = words[1:]
    if module == "benchmarks":
        assert rest[0] in (*CORE, *SERVICE), place
        parser = argparse.ArgumentParser(exit_on_error=False)
        importlib.import_module(f"benchmarks.{rest[0].replace('-', '_')}").add_arguments(parser)
        if rest[0] in SERVICE:
            parser.add_argument("--database")
        _, unknown = parser.parse_known_args(rest[1:])
        assert not unknown, f"{place}: {rest[0]} has no {unknown}"
        return
    assert find_spec(module) is not None, f"{place}: there is no module {module}"
    usage = subprocess.run(
        [sys.executable, "-m", module, *rest[:1], "--help"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert usage.returncode == 0, f"{place}: {usage.stderr}"
    for option in (word for word in rest if word.startswith("--")):
        assert option in usage.stdout, f"{place}: {module} {rest[0]} has no {option}"


def check_make(words: list[str], place: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in (word for word in words if "=" not in word):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{place}: there is no make {target}"


CLIENT_WHEEL = f"build/lcl_client-{version('lcl')}-py3-none-any.whl"


def check_pip(words: list[str], place: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    if words[-1].endswith(".whl"):
        assert words[-1] == CLIENT_WHEEL, f"{place}: make client builds {CLIENT_WHEEL}"
        return
    wanted = re.fullmatch(r"(?:lcl|\.)\[([\w,]+)\]", words[-1])
    assert wanted, f"{place}: {words[-1]}"
    assert set(wanted[1].split(",")) <= extras.keys(), place


def check_files(words: list[str], place: str) -> None:
    """Files and folders of the repository that a command names with -f or -k, and services of compose."""
    named = [words[at + 1] for at, word in enumerate(words) if word in ("-f", "-k") and at + 1 < len(words)]
    for name in named:
        found = any((folder / name).exists() for folder in (ROOT, ROOT / "deploy" / "kubernetes"))
        assert found or name.endswith(".tar") or name == "-", f"{place}: there is no {name}"


def check_compose(words: list[str], place: str) -> None:
    """Services that ``docker compose`` is to scale, or to run a command in."""
    if words[0] != "compose":
        return
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    named = [words[at + 1].partition("=")[0] for at, word in enumerate(words) if word == "--scale"]
    if words[1] in ("exec", "run"):
        named.append(next(word for word in words[2:] if not word.startswith("-")))
    assert set(named) <= services.keys(), f"{place}: docker-compose.yml has no {named}"


def check_install(words: list[str], place: str) -> None:
    """A file that is copied for secrets, which no other user can read."""
    assert words[:2] == ["-m", "600"], place
    assert any((folder / words[2]).exists() for folder in (ROOT, ROOT / "deploy" / "kubernetes")), place


PROGRAMS: dict[str, Callable[[list[str], str], None]] = {
    "lcl": check_lcl,
    "python": check_module,
    "make": check_make,
    "pip": check_pip,
    "install": check_install,
}


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.place)
def test_commands_exist(block: Block) -> None:
    bash = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert bash.returncode == 0, f"{block.place}: {bash.stderr}"
    for program, *words in statements(block.text):
        name = program.removeprefix(".venv/bin/")
        if name in HARMLESS:
            continue
        if name in FORM_ONLY:
            check_files(words, block.place)
            if name == "docker":
                check_compose(words, block.place)
            continue
        assert name in PROGRAMS, f"{block.place}: {name}: check it, or say in FORM_ONLY why not"
        PROGRAMS[name](words, block.place)


RUN = ("collections list", "collections show", "search", "encoders list")  # cheap: on the service as they stand


def test_cheap_commands_run(reader: Path, lcl: Callable[..., tuple[int, str, str]]) -> None:  # noqa: F811
    # quickstarts run whole in a test of their own, on the collection of a new home
    pages = [block for block in SHELL if not block.page.startswith("docs/quickstart_")]
    lines = [words[1:] for block in pages for words in statements(block.text) if words[0].endswith("lcl")]
    # an item's id and a label are those of the reader's own collection
    used = [words for words in lines if " ".join(words).startswith(RUN) and not {"--item", "--where"} & set(words)]
    assert used
    for words in used:
        status, _, errors = lcl(*("squares" if word == "drawings" else word for word in words))
        assert status == 0, f"lcl {' '.join(words)}: {errors}"


# ---------------------------------------------------------------- JSON and others


class ExportLine(BaseModel, extra="forbid"):
    """A line of a collection's export."""

    id: str
    image: str
    captions: list[str]
    labels: dict[str, str]
    split: str
    source: str
    media_type: str
    encoder_hash: str
    vector: list[float]


SCHEMAS: dict[str, Callable[[Any], Any]] = {
    "docs/collections.md": ExportLine.model_validate,
    "docs/data.md": lambda value: parse_as(DataSpec, value),
    "docs/operations.md": lambda value: WorkerSettings(kubernetes_pod=value),
    "docs/search.md": SearchRequest.model_validate,
    "docs/studies.md": lambda value: parse_as(StudySpec, value),
}
NO_CODE = {
    "mermaid": "a diagram",
    "text": "output, or a diagram of characters",
}


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "json"], ids=lambda b: b.place)
def test_json_follows_its_schema(block: Block) -> None:
    SCHEMAS[block.page](json.loads(block.text))


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_every_block_says_what_it_is(block: Block) -> None:
    assert block.language in {"sh", "python", "json", *NO_CODE}, f"{block.place}: write its language behind the fence"
