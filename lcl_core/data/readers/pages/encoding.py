"""The bytes of a page as text."""

from __future__ import annotations

import codecs
import re

_HEAD_BYTES = 4096
_DECLARED = re.compile(
    rb"""<(?:meta\b[^>]{0,500}?charset|\?xml\b[^>]{0,200}?encoding)\s*=\s*["']?\s*([\w.:-]{2,40})""", re.I
)
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# Python's registry also has codecs that are no encodings of text (hex, zlib) or that run wild (idna, utf-7)
_ALLOWED = re.compile(r"utf-8|iso8859-|cp\d+|koi8|gb2312|gbk|gb18030|big5|shift_jis|euc_|johab|mac-|tis-620|kz1048|hz$")
# browsers read these labels as the wider Windows encoding
_WIDER = {"iso8859-1": "cp1252", "ascii": "cp1252", "iso8859-9": "cp1254", "gb2312": "gb18030", "gbk": "gb18030"}


def decode_page(data: bytes) -> str:
    """By byte order mark, else as ``<meta charset>`` says, else UTF-8; what does not decode becomes U+FFFD."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    return data.decode(_declared(data[:_HEAD_BYTES]) or "utf-8", "replace")


def _declared(head: bytes) -> str | None:
    found = _DECLARED.search(head)
    if found is None:
        return None
    try:
        name = codecs.lookup(found[1].decode("ascii")).name
    except (LookupError, UnicodeDecodeError):
        return None
    name = _WIDER.get(name, name)
    return name if _ALLOWED.match(name) else None
