"""``python -m lcl_core.db.migrations``: migrate the database of ``LCL_DATABASE_URL``, then exit.

Exit status 1 when the database does not answer or is damaged. Processes that migrate at the same time take turns.
"""

from __future__ import annotations

import sys

from lcl_core.common.settings import Settings
from lcl_core.db.session import UNREACHABLE, Database, DatabaseDamaged


def main() -> int:
    settings = Settings()
    database = Database(settings.resolved_database_url, pooled=settings.database_pooled)
    try:
        database.migrate()
    except UNREACHABLE as error:
        print(f"error: the database does not answer ({type(error).__name__})", file=sys.stderr)  # noqa: T201
        return 1
    except DatabaseDamaged as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    finally:
        database.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
