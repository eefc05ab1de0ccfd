"""``python -m benchmarks NAME …``: every benchmark prints one JSON object."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks import (
    as_shipped,
    breakdown,
    captions,
    collection,
    decode,
    heads,
    loader,
    objectives,
    outside,
    packing,
    retrieval,
    train,
)
from lcl_core.common.errors import UserError

BENCHMARKS = {
    "train": train,
    "as-shipped": as_shipped,
    "breakdown": breakdown,
    "captions": captions,
    "collection": collection,
    "decode": decode,
    "heads": heads,
    "loader": loader,
    "outside": outside,
    "packing": packing,
    "retrieval": retrieval,
    "objectives": objectives,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status; ``arguments``: none for those of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True)
    for name, module in BENCHMARKS.items():
        module.add_arguments(names.add_parser(name, description=module.__doc__))
    options = parser.parse_args(arguments)
    try:
        BENCHMARKS[options.name].main(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
