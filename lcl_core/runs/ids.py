"""Identifiers that sort by the time of their making."""

from __future__ import annotations

import secrets
import time

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, in ASCII order
_LENGTH = 18
_RANDOM_BITS = 38


def new_id(prefix: str) -> str:
    """``PREFIX_`` and 18 digits: 52 bits of microseconds since 1970, then 38 random bits.

    Newest-first pages need no other index than the primary key.
    """
    value = (time.time_ns() // 1000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
    digits = [_DIGITS[(value >> (5 * place)) & 31] for place in reversed(range(_LENGTH))]
    return f"{prefix}_{''.join(digits)}"


def sibling_id(prefix: str, run_id: str) -> str:
    """The identifier of the one thing that a run makes: an attempt that is made again makes the same."""
    return f"{prefix}_{run_id.partition('_')[2]}"
