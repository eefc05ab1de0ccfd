"""Names of objects, and texts that can be stored. Without pydantic, whose import would delay the command line."""

from __future__ import annotations

import re

from lcl_core.common.errors import UserError

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
NAME_RULE = "a name starts with a letter or digit and holds letters, digits, . _ and - only, 100 characters at most"


def check_name(name: str) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise UserError(f"{name[:120]!r}: {NAME_RULE}", field="name")


def replace_surrogates(text: str) -> str:
    """``text`` with U+FFFD for surrogates that have lost their other half: no file and no database can store them."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def storable_text(text: str) -> str:
    """As ``replace_surrogates``, and U+FFFD for NUL, which PostgreSQL cannot store."""
    return replace_surrogates(text).replace("\0", "\ufffd")
