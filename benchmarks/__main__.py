"""``python -m benchmarks NAME …``: every benchmark prints one JSON object.

Only the chosen benchmark's module is imported: the others' libraries would count in its time and memory.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from lcl_core.common.errors import UserError

CORE = ("train", "as-shipped", "gpu", "collection", "linear-probe")
SERVICE = ("submissions", "claims", "embeddings", "searches")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark. ``arguments``: None for those of the command line. Returns: the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=(*CORE, *SERVICE))
    name = parser.parse_args(words[:1]).name
    module = import_module(f"benchmarks.{name.replace('-', '_')}")
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=module.__doc__)
    if name in SERVICE:
        parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    module.add_arguments(parser)
    try:
        return module.main(parser.parse_args(words[1:])) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
