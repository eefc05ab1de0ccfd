"""The reference of the documentation site, written from the code: specs, settings, command line.

A page is made of the pydantic models, or of the command tree; the service describes its REST API itself. Imports no
torch: the site is built where only the service's libraries are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from typer.main import get_command

from api.cli import HELP, app
from api.cli.spec_fields import spec_fields
from api.core.settings import ApiSettings
from lcl_core.common.settings import Settings
from lcl_core.jobs import JOBS
from lcl_core.specs.base import presets
from lcl_core.specs.study import StudySpec
from ui.settings import UiSettings
from workers.settings import WorkerSettings

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "reference"
SETTING_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
# defaults that depend on the machine or on other settings, in words
COMPUTED_DEFAULTS = {
    "LCL_DOCS_DIR": "`build/site` of the checkout",
    "LCL_HOME": "`~/.lcl`",
    "LCL_LEASE_SECONDS": "240 with PostgreSQL, else 60",
}


def reference_pages() -> dict[str, str]:
    """Markdown of every page, by its name without suffix."""
    specs = {kind: job.spec_class() for kind, job in JOBS.items()} | {"study": StudySpec}
    pages = {f"spec_{kind}": spec_page(kind, model) for kind, model in specs.items()}
    pages |= {"settings": settings_page(), "commands": commands_page()}
    return {f"{FOLDER}/{name}": text for name, text in pages.items()}


def cell(text: str) -> str:
    """Text as one cell of a table, in which nothing is markup but code between backticks."""
    parts = re.split(r"(``.*?``|`[^`]*`)", " ".join(text.split()))
    plain = (part if at % 2 else re.sub(r"([\\<>\[\]*_|{}])", r"\\\1", part) for at, part in enumerate(parts))
    return "".join(plain).replace("\\|", "|").replace("|", "\\|")


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]] | list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def given(default: str) -> str:
    """A default in a cell; that a field is required is no value."""
    return default if default == "required" else code(default)


def code(text: str) -> str:
    """Code in a cell; nothing for no text."""
    return f"`{text}`".replace("|", "\\|") if text else ""


# ---------------------------------------------------------------- specs


def spec_page(kind: str, model: type[BaseModel]) -> str:
    schema = model.model_json_schema()
    title = JOBS[kind].label if kind in JOBS else "Study"
    named = presets(kind)
    lines = [
        f"# Spec: {kind}\n",
        f"{title}. {prose(schema.get('description', ''))}\n",
        f"`lcl submit {kind}` and `POST /v1/runs` accept these fields; `lcl spec {kind}` prints them."
        if kind in JOBS
        else "`lcl study run` and `POST /v1/studies` accept these fields.",
        "Unknown fields are refused. A field that is not given has its default.\n",
        table(
            ("field", "type and range", "default", "meaning"),
            [
                (code(field.path), cell(field.type_and_range), given(field.default), cell(field.meaning))
                for field in spec_fields(schema)
            ],
        ),
    ]
    if named:
        rows = [(code(name), cell(description)) for name, description in preset_descriptions(kind).items()]
        lines += [f"\n## Presets of {kind}\n", table(("preset", "what it is"), rows)]
    return "\n".join(lines)


def preset_descriptions(kind: str) -> dict[str, str]:
    folder = ROOT / "lcl_core" / "presets" / kind
    found = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}
    return {name: preset.get("description") or preset.get("question", "") for name, preset in found.items()}


# ---------------------------------------------------------------- settings


class Setting(NamedTuple):
    """An environment variable of a part of the service."""

    variable: str
    range: str
    default: str
    meaning: str


PARTS: tuple[tuple[str, str, type[Any], type[Any] | None], ...] = (
    ("Every part", "Read by api and workers, and by all jobs.", Settings, None),
    ("API", "Read by `python -m api`.", ApiSettings, Settings),
    ("Worker", "Read by `python -m workers`.", WorkerSettings, Settings),
    ("Page", "Read by `python -m ui`.", UiSettings, None),
)


def settings_page() -> str:
    lines = [
        "# Settings\n",
        "Environment variables of the service's processes. A misspelt name is refused when a process starts. What",
        "belongs together is explained in [operations](../operations.md).\n",
    ]
    for title, words, model, base in PARTS:
        rows = [
            (code(each.variable), cell(each.range), each.default, cell(each.meaning)) for each in settings(model, base)
        ]
        lines += [f"## {title}\n", words + "\n", table(("variable", "range", "default", "meaning"), rows)]
    return "\n".join(lines)


def settings(model: type[Any], base: type[Any] | None = None) -> list[Setting]:
    """The settings of a class, without those of its base."""
    prefix = str(model.model_config["env_prefix"])
    found = []
    for name, field in model.model_fields.items():
        if base is None or name not in base.model_fields:
            variable = str(field.validation_alias or f"{prefix}{name.upper()}")
            meaning = field.description or ""
            found.append(Setting(variable, _setting_range(field), _setting_default(variable, field), meaning))
    return found


def _setting_range(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    words = []
    for each in field.metadata:
        words += [f"{sign} {getattr(each, key):,}" for key, sign in SETTING_BOUNDS.items() if hasattr(each, key)]
        if pattern := getattr(each, "pattern", None):
            words.append(f"``{pattern}``")
    return "; ".join(words)


def _setting_default(variable: str, field: FieldInfo) -> str:
    if variable in COMPUTED_DEFAULTS:
        return COMPUTED_DEFAULTS[variable]
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value in ("", None, []):
        return ""
    return code(str(value).lower() if isinstance(value, bool) else f"{value}")


# ---------------------------------------------------------------- command line


def commands_page() -> str:
    lines = ["# Commands of lcl\n", prose(HELP) + "\n"]
    root: Any = get_command(app)
    lines += ["## Options of every command\n", table(("option", "default", "meaning"), list(_options(root)))]
    for path, command in commands(root):
        usage = " ".join(["lcl", path, *(_usage(each) for each in _arguments(command)), "[OPTIONS]"])
        lines += [f"## lcl {path}\n", f"`{usage}`\n", prose(command.help) + "\n"]
        rows = [*_argument_rows(command), *_options(command)]
        if rows:
            lines.append(table(("option", "default", "meaning"), rows))
    return "\n".join(lines)


def commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command below a group with its words, in the order in which help shows them."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        elif not command.hidden:
            yield f"{prefix}{name}", command


def _usage(argument: Any) -> str:
    name = str(argument.metavar or argument.name).upper() + ("..." if argument.nargs != 1 else "")
    return name if argument.required else f"[{name}]"


def _arguments(command: Any) -> list[Any]:
    return [each for each in command.params if each.param_type_name == "argument"]


def _argument_rows(command: Any) -> Iterator[tuple[str, str, str]]:
    for each in _arguments(command):
        default = "required" if each.required else ""
        yield code(str(each.metavar or each.name).upper()), default, cell(each.help or "")


def _options(command: Any) -> Iterator[tuple[str, str, str]]:
    for each in command.params:
        if each.param_type_name == "option" and not each.hidden:
            names = ", ".join(code(name) for name in (*each.opts, *each.secondary_opts))
            given = each.default
            shown = "" if callable(given) or given in (None, False, (), []) else code(str(given))
            yield names, "required" if each.required else shown, cell(each.help or "")


def prose(text: str | None) -> str:
    """A docstring as Markdown paragraphs, in which only code between backticks is markup."""
    return "\n\n".join(cell(part).replace("\\|", "|") for part in re.split(r"\n\s*\n", text or ""))
