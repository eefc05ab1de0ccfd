"""``lcl status``, ``lcl open``, ``lcl spec``."""

from __future__ import annotations

import json
import os
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import typer

from api.cli.completion import complete_spec
from api.cli.output import CommandError, global_options
from api.client import ApiError, Client
from api.client.local_service import local_service
from api.client.payloads import Json
from lcl_core.common.errors import suggestion

API_PORT, PAGE_PORT = 8765, 7865  # of a service on one machine
MAX_DEPTH = 4  # of objects in a spec
# What ``lcl open`` looks for, in this order, and the parameters of the page that show it.
OPENABLE: dict[str, Callable[[Client, str], Mapping[str, str]]] = {
    "encoder": lambda client, name: {"tab": "encoders", "encoder": client.encoder(name)["name"]},
    "collection": lambda client, name: {"collection": client.collection(name)["name"]},
    "dataset": lambda client, name: {"tab": "documents", "dataset": client.dataset(name)["name"]},
    "study": lambda client, name: {"study": client.study(name)["id"]},
    "run": lambda client, name: {"run": client.run(name)["id"]},
}
ID_PREFIXES = {"enc_": "encoder", "col_": "collection", "study_": "study", "run_": "run"}


def status(context: typer.Context) -> None:
    """Address, version, database, workers and queue of the service. Exit status 1 unless all of it works."""
    options = global_options(context)
    with options.client() as client:
        found = client.status()
        address = client.base_url
    counts = ", ".join(f"{number} {state}" for state, number in found["runs"].items() if number) or "no runs"
    rows = [
        ("address", address),
        ("version", found["version"]),
        ("database", f"{found['database']}: {found['checks']['database']['detail']}"),
        *((name, found["checks"][name]["detail"]) for name in ("disk", "broker")),
        ("workers", f"{found['workers']}, {found['slots']} runs at once: {found['checks']['worker']['detail']}"),
        ("runs", counts),
        ("ready", "yes" if found["ready"] else "no"),
    ]
    options.print_table({"address": address, **found}, ("what", "now"), rows, "")
    if not found["ready"]:
        raise typer.Exit(1)


def open_(
    context: typer.Context,
    thing: Annotated[str, typer.Argument(help="id or name of an encoder, collection, dataset, study or run")],
    kind: Annotated[str | None, typer.Option(help=f"only one of {', '.join(OPENABLE)}")] = None,
    page: Annotated[
        str | None, typer.Option(help="address of the page; default LCL_PAGE_URL, else beside --url")
    ] = None,
    only_print: Annotated[bool, typer.Option("--print", help="print the address and open nothing")] = False,
) -> None:
    """Open something in the page, and print its address. Of several with a name: the first kind of the list above."""
    if kind is not None and kind not in OPENABLE:
        raise CommandError(f"--kind {kind}: choose from {', '.join(OPENABLE)}{suggestion(kind, OPENABLE)}")
    options = global_options(context)
    with options.client() as client:
        found, query = _find(client, thing, kind)
        address = f"{page or page_url(client.base_url)}/?{urlencode(query)}"
    options.print({"kind": found, "address": address}, address)
    if not only_print:
        webbrowser.open(address)


def page_url(api_url: str) -> str:
    """Address of the page: ``LCL_PAGE_URL``, else what the launcher says, else the other port on one machine, else the
    gateway that serves both."""
    if address := os.environ.get("LCL_PAGE_URL"):
        return address.rstrip("/")
    local = local_service()
    if local.page_url and local.url == api_url.rstrip("/"):
        return local.page_url
    parts = urlsplit(api_url)
    host = f"{parts.hostname}:{PAGE_PORT}" if parts.port == API_PORT else parts.netloc
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


def _find(client: Client, thing: str, kind: str | None) -> tuple[str, Mapping[str, str]]:
    """Kind of a thing, and the page's parameters. Raises: CommandError; ApiError except for what does not exist."""
    named = next((noun for prefix, noun in ID_PREFIXES.items() if thing.startswith(prefix)), None)
    message = f"there is no encoder, collection, dataset, study or run {thing!r}"
    for noun, query in OPENABLE.items():
        if noun != (kind or named or noun):
            continue
        try:
            return noun, query(client, thing)
        except ApiError as error:
            if error.status != 404:
                raise
            if kind or named or "did you mean" in error.message:
                message = error.message
    raise CommandError(message)


def spec(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="a kind, or a preset; none: all kinds", autocompletion=complete_spec)
    ] = None,
    kind: Annotated[str | None, typer.Option(help="kind of the preset, where several have one of that name")] = None,
) -> None:
    """Kinds of runs, and studies, with their presets; the fields of a kind; or what a preset sets, as JSON."""
    options = global_options(context)
    with options.client() as client:
        specs = client.specs()
        if name is None:
            rows = ((spec["kind"], spec["description"].partition(".")[0], ", ".join(spec["presets"])) for spec in specs)
            options.print_table(specs, ("kind", "what it does", "presets"), rows, "")
            return
        kinds = [spec["kind"] for spec in specs]
        if name in kinds and kind is None:
            found = client.spec_schema(name)
            options.print_table(found, ("field", "type", "default", "meaning"), list(_field_rows(found["schema"])), "")
            return
        owners = [spec["kind"] for spec in specs if name in spec["presets"] and kind in (None, spec["kind"])]
        if not owners:
            presets = [preset for spec in specs for preset in spec["presets"]]
            near = suggestion(name, [*kinds, *presets]) or "; lcl spec has the names"
            raise CommandError(f"there is no kind or preset {name!r}{near}")
        if len(owners) > 1:
            raise CommandError(f"{name} is a preset of {' and '.join(owners)}; choose one with --kind")
        fields = client.spec_schema(owners[0])["presets"][name]
    options.print({"kind": owners[0], "preset": name, "spec": fields}, json.dumps(fields, indent=1, ensure_ascii=False))


def _field_rows(schema: Json) -> Iterator[tuple[str, str, str, str]]:
    """(dotted field, type, default, meaning) of every field, those of an object after it."""
    definitions = schema.get("$defs", {})

    def rows(node: Json, prefix: str, depth: int) -> Iterator[tuple[str, str, str, str]]:
        for name, field in node.get("properties", {}).items():
            inner = _object_in(field, definitions)
            required = name in node.get("required", ())
            default = "required" if required else "" if inner else json.dumps(field.get("default"), ensure_ascii=False)
            meaning = field.get("description") or (inner or {}).get("description", "")
            yield f"{prefix}{name}", _type_name(field, definitions), default, " ".join(meaning.split())
            if inner and depth < MAX_DEPTH:
                yield from rows(inner, f"{prefix}{name}.", depth + 1)

    yield from rows(schema, "", 0)


def _object_in(field: Json, definitions: Json) -> Json | None:
    """The one object that a field holds; None: it holds none, or a list or choice of them."""
    choices = [field, *field.get("anyOf", ()), *field.get("allOf", ())]
    found = [definitions[choice["$ref"].rpartition("/")[2]] for choice in choices if "$ref" in choice]
    return found[0] if len(found) == 1 and "properties" in found[0] else None


def _type_name(field: Any, definitions: Json) -> str:
    if "$ref" in field:
        return _type_name(definitions[field["$ref"].rpartition("/")[2]], definitions)
    if "const" in field or "enum" in field:
        return ", ".join(map(str, field.get("enum", [field.get("const")])))
    if choices := field.get("anyOf") or field.get("oneOf"):
        return " or ".join(dict.fromkeys(_type_name(choice, definitions) for choice in choices))
    if field.get("type") == "array":
        items = field.get("items") or {}
        return f"list of {_type_name(items, definitions)}" if items else "list"
    return {"integer": "whole number", "boolean": "true or false", "null": "null"}.get(
        field.get("type", ""), field.get("type", "anything")
    )
