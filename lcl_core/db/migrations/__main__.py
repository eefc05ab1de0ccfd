"""``python -m lcl_core.db.migrations``: migrate the database of ``LCL_DATABASE_URL``, then exit.

With ``--to REVISION`` it goes back to what an earlier version needs; what came with later revisions is lost. Exit
status 1 when the database does not answer, is damaged, or is of a newer version than this one. Processes that migrate
at the same time take turns.
"""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence

from lcl_core.common.errors import UserError
from lcl_core.common.settings import Settings
from lcl_core.db.session import UNREACHABLE, Database, DatabaseDamaged


def main(arguments: Sequence[str] = ()) -> int:
    parser = ArgumentParser("python -m lcl_core.db.migrations", description=__doc__)
    parser.add_argument("--to", metavar="REVISION", type=_revision, help="go back to this one, such as 0028")
    revision = parser.parse_args(arguments).to
    settings = Settings()
    database = Database(settings.resolved_database_url, pooled=settings.database_pooled)
    try:
        if revision is None:
            database.migrate()
        else:
            database.downgrade(revision)
    except UNREACHABLE as error:
        print(f"error: the database does not answer ({type(error).__name__})", file=sys.stderr)  # noqa: T201
        return 1
    except (DatabaseDamaged, UserError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    finally:
        database.dispose()
    return 0


def _revision(text: str) -> str:
    """Neither ``base``, which would delete everything, nor a relative one."""
    if not re.fullmatch(r"\d{4}(-\d+)?", text):
        raise ArgumentTypeError(f"{text!r} is no revision; they have four digits, such as 0028")
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
