"""``lcl embed-folder``."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from api.cli.common import Refused, settings_of
from api.cli.progress import bar
from api.client import Skipped


def embed_folder(
    context: typer.Context,
    encoder: Annotated[str, typer.Argument(help="id or name of the encoder")],
    folder: Annotated[Path, typer.Argument(help="with pictures, in folders of its own too")],
    out: Annotated[Path | None, typer.Option(help="JSON-lines file; default standard output")] = None,
    batch: Annotated[int, typer.Option(min=1, max=256, help="pictures in a request")] = 32,
    at_once: Annotated[int, typer.Option(min=1, max=64, help="requests under way")] = 4,
) -> None:
    """Vectors of all pictures in a folder, one JSON object a line: {"input", "embedding"}.

    A file that cannot be read is skipped, and named with the reason.
    """
    skipped: list[Skipped] = []
    count = 0
    try:
        with ExitStack() as stack:
            target = stack.enter_context(out.open("w", encoding="utf-8")) if out else None
            client = stack.enter_context(settings_of(context).client())
            tell = stack.enter_context(bar(folder.name, unit="pictures"))
            found = client.embed_folder(
                encoder, folder, batch=batch, at_once=at_once, on_skip=skipped.append, on_progress=tell
            )
            for path, vector in found:
                line = json.dumps({"input": str(path), "embedding": vector}, ensure_ascii=False)
                typer.echo(line, file=target)
                count += 1
    except OSError as error:
        raise Refused(f"{error.filename or out}: {error.strerror}") from error
    for path, reason in skipped:
        typer.echo(f"skipped {path}: {reason}", err=True)
    if out:
        typer.echo(f"{count} vectors in {out}")
