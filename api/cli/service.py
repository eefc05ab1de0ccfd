"""``lcl status``, ``lcl spec``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from api.cli.output import ago, options, print_table
from api.cli.spec_fields import spec_fields
from api.client import UserError
from api.client.payloads import Json, format_bytes
from lcl_core.common.errors import suggestion


def status() -> None:
    """The service, its queue, and each worker with its GPUs.

    Runs are those of all owners for admins, else the key's own. Exit status 1 unless all of the service works.
    """
    with options.client() as client:
        found, workers, address = client.status(), client.workers(), client.base_url
    checks = {name: check["detail"] for name, check in found["checks"].items()}
    rows = [
        ("address", address),
        ("version", found["version"]),
        ("database", f"{found['database']}: {checks['database']}"),
        ("disk", checks["disk"]),
        ("broker", checks["broker"]),
        ("workers", f"{found['workers']}, {found['slots']} runs at once: {checks['worker']}"),
        ("runs", ", ".join(f"{number} {state}" for state, number in found["runs"].items() if number) or "no runs"),
        ("ready", "yes" if found["ready"] else "no"),
    ]
    options.print_table({"address": address, **found, "worker_list": workers}, ("what", "now"), rows, "")
    if not options.as_json:
        columns = ("worker", "slots", "device", "id", "use", "run", "memory", "seen")
        print_table(columns, [row for worker in workers for row in _worker_rows(worker)], "no worker is alive")
    if not found["ready"]:
        raise typer.Exit(1)


def _worker_rows(worker: Json) -> list[tuple[object, ...]]:
    """A line for each GPU: which run has it, and how much of its memory is used."""
    first, seen = (worker["id"], worker["slots"]), ago(worker["seen_at"])
    if not worker["gpus"]:
        return [(*first, ", ".join(worker["devices"]), None, None, worker["current_run"], None, seen)]
    return [(*first, gpu["name"], gpu["id"], gpu["use"], gpu["run"], _memory(gpu), seen) for gpu in worker["gpus"]]


def _memory(gpu: Json) -> str | None:
    used, total = gpu["memory_used"], gpu["memory_total"]
    return None if used is None or total is None else f"{format_bytes(used)} of {format_bytes(total)}"


def spec(
    name: Annotated[str | None, typer.Argument(help="a kind, or a preset; none: all kinds")] = None,
    kind: Annotated[str | None, typer.Option(help="kind of the preset, where several have one of that name")] = None,
) -> None:
    """Kinds of runs, and studies, with their presets; the fields of a kind; or what a preset sets, as JSON."""
    with options.client() as client:
        specs = client.specs()
        if name is None:
            what = ("what it does", lambda spec: spec["description"].partition(".")[0])
            options.print_items(specs, ("kind", what, ("presets", lambda spec: ", ".join(spec["presets"]))), "")
            return
        kinds = [spec["kind"] for spec in specs]
        if name in kinds and kind is None:
            found = client.spec_schema(name)
            columns = ("field", "type and range", "default", "meaning")
            options.print_table(found, columns, spec_fields(found["schema"]), "")
            return
        owners = [spec["kind"] for spec in specs if name in spec["presets"] and kind in (None, spec["kind"])]
        if not owners:
            presets = [preset for spec in specs for preset in spec["presets"]]
            near = suggestion(name, [*kinds, *presets]) or "; lcl spec has the names"
            raise UserError(f"there is no kind or preset {name!r}{near}")
        if len(owners) > 1:
            raise UserError(f"{name} is a preset of {' and '.join(owners)}; choose one with --kind")
        fields = client.spec_schema(owners[0])["presets"][name]
    options.print({"kind": owners[0], "preset": name, "spec": fields}, json.dumps(fields, indent=1, ensure_ascii=False))
