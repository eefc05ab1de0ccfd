"""``python -m lcl_core.db.migrations``: migrate the database of ``LCL_DATABASE_URL``, then exit.

Exit status 1 when the database does not answer, is damaged, or is of another version than this one.
"""

from __future__ import annotations

import sys

from lcl_core.common.errors import UserError
from lcl_core.common.settings import Settings
from lcl_core.db.session import UNREACHABLE, Database, DatabaseDamaged


def main() -> int:
    database = Database(Settings().resolved_database_url)
    try:
        database.migrate()
    except UNREACHABLE as error:
        print(f"error: the database does not answer ({type(error).__name__})", file=sys.stderr)  # noqa: T201
        return 1
    except (DatabaseDamaged, UserError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    finally:
        database.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
