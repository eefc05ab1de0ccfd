"""The command line ``lcl``: commands, error messages and exit statuses. Uses ``api.client`` alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException
from typer.main import get_command

import lcl_core
from api.cli import admin, collections, data, encoders, inference, output, runs, service, studies
from api.client import ApiError, UserError

HELP = """Pre-train vision encoders on interleaved documents, evaluate, index and use them.

The service's address comes from --url or LCL_API_URL, the key from --key or LCL_API_KEY; for a service on this machine
also from $LCL_HOME/key.
Encoders, collections, datasets, runs and studies are named by id or name. --json may stand anywhere.
"""
JSON_OPTION = "--json"

app = typer.Typer(name="lcl", help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command()(runs.submit)
app.command()(service.status)
app.add_typer(runs.group, name="runs")
app.command()(service.spec)
app.add_typer(studies.group, name="study")
app.add_typer(data.group, name="data")
app.add_typer(encoders.group, name="encoders")
app.add_typer(collections.group, name="collections")
app.add_typer(admin.keys_group, name="keys")
app.add_typer(admin.webhooks_group, name="webhooks")
app.command()(admin.audit)
app.command()(inference.search)
app.command()(inference.duplicates)
app.command()(inference.caption)
app.command("continue")(inference.continue_)
app.command()(inference.embed)
app.command()(inference.zero_shot)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"lcl {lcl_core.__version__}")
        raise typer.Exit


@app.callback()
def global_options(
    url: Annotated[str | None, typer.Option(help="address of the service")] = None,
    key: Annotated[str | None, typer.Option(help="API key")] = None,
    as_json: Annotated[
        bool,
        typer.Option(JSON_OPTION, help='print the answer as JSON, lists as {"items": […]}; also after the command'),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="print the version")
    ] = False,
) -> None:
    """Options of every command."""
    output.options.url, output.options.key, output.options.as_json = url, key, as_json


def main() -> None:
    """Exit status 0, 1 for an error (message on standard error), 2 for a wrong command line, 130 for Ctrl-C."""
    try:
        status = get_command(app).main(move_json_first(sys.argv[1:]), "lcl", standalone_mode=False)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "lcl"
        output.print_error(f"{error.format_message().rstrip('.')} ({path} --help)")
        sys.exit(error.exit_code)
    except typer.Abort:
        output.print_error("stopped")
        sys.exit(1)
    except (ApiError, UserError) as error:
        where = f" [{error.field}]" if error.field and error.field not in error.message else ""
        output.print_error(f"{error}{where}")
        sys.exit(1)
    except OSError as error:  # of a file: the client has errors of its own for the network
        output.print_error(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        sys.exit(1)
    sys.exit(status or 0)


def move_json_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with ``--json``, which is accepted anywhere, before the command; after ``--`` it is a word."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [word for word in arguments[:end] if word != JSON_OPTION]
    return [*([JSON_OPTION] if len(options) < end else []), *options, *arguments[end:]]
