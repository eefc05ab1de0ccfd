"""``python -m lcl_core.dataset_builder list | build --out DIR``: corpora from published packages, on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lcl_core.common.errors import UserError
from lcl_core.dataset_builder.build import MIN_SIDE, SIDE, BuildPlan, build, build_tiny
from lcl_core.dataset_builder.packages import DEFAULT_CACHE, PackageCache
from lcl_core.dataset_builder.sources import SOURCES, select_sources


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 with the reason in one line on standard error."""
    arguments = parser().parse_args(argv)
    try:
        arguments.do(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m lcl_core.dataset_builder", description=__doc__)
    commands = top.add_subparsers(required=True)
    listing = commands.add_parser("list", help="the sources: what they are, their licences, their packages")
    listing.set_defaults(do=lambda _: list_sources())
    building = commands.add_parser("build", help="make a corpus of some sources, or of all")
    building.set_defaults(do=build_command)
    building.add_argument("--out", type=Path, required=True, help="folder to make; with --tiny, a zip")
    building.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help=f"folder of packages (now {DEFAULT_CACHE})")
    building.add_argument("--fetch", action="store_true", help="download what the cache lacks, with npm and apt-get")
    building.add_argument("--only", nargs="+", metavar="SOURCE", help=f"of {', '.join(SOURCES)}")
    building.add_argument("--licence", choices=("any", "permissive"), default="any", help="which works are taken")
    building.add_argument("--side", type=int, default=SIDE, help=f"longest side of an image, {MIN_SIDE} pixels or more")
    building.add_argument("--tiny", action="store_true", help="the sample that ships with the project")
    return top


def list_sources() -> None:
    for source in SOURCES.values():
        print_line(f"{source.name:12} {source.about}\n{'':12} {', '.join(source.licences)}")
        for package in source.packages:
            print_line(f"{'':12} {package.client} {package.name} {package.version}")


def build_command(arguments: argparse.Namespace) -> None:
    """Raises: UserError."""
    cache = PackageCache(arguments.cache, arguments.fetch, print_line)
    if arguments.tiny:
        figures = build_tiny(cache, arguments.out, print_line)
        print_line(f"{arguments.out}: {figures['pictures']:,} images, {figures['documents']:,} documents")
        return
    plan = BuildPlan(tuple(select_sources(arguments.only)), arguments.side, arguments.licence)
    build(plan, cache, arguments.out, print_line)
    print_line(f"made {arguments.out}; lcl data register NAME {arguments.out.resolve()} makes it a dataset")


def print_line(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
