"""Alternative texts: which say something, and which say what a caption says."""

from __future__ import annotations

import re

_FILE = re.compile(r"\S+\.(?:png|jpe?g|gif|webp|svg|bmp|tiff?|avif)", re.I)
_EMPTY = frozenset(
    ("alt", "bild", "figure", "graphic", "graphics", "icon", "illustration", "image", "images", "img", "inline")
).union(("logo", "photo", "picture", "screenshot", "thumbnail"))


def kept_alt(alt: str) -> str:
    """``alt``, or nothing where a program has put a file name or a mere word for "image" there."""
    if _FILE.fullmatch(alt) or "://" in alt or _plain(alt) in _EMPTY:
        return ""
    return alt if any(map(str.isalnum, alt)) else ""


def same_text(alt: str, caption: str) -> bool:
    """Does the caption say all that the alternative text does, but for case and punctuation?"""
    return f" {_plain(alt)} " in f" {_plain(caption)} "


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", text).split()).lower()
