"""``python -m benchmarks NAME …``: what the service bears; every benchmark prints one JSON object."""

from __future__ import annotations

import argparse
import sys

from benchmarks import claims, embeddings, inferences, listing, memory, searches, submissions
from lcl_core.common.errors import UserError

BENCHMARKS = {
    "submissions": submissions,
    "listing": listing,
    "claims": claims,
    "memory": memory,
    "embeddings": embeddings,
    "searches": searches,
    "inferences": inferences,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True)
    for name, module in BENCHMARKS.items():
        its = names.add_parser(name, description=module.__doc__)
        its.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
        module.add_arguments(its)
    options = parser.parse_args()
    try:
        BENCHMARKS[options.name].main(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
