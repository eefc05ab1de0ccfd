"""The text that a tokenizer sees: CLIP's cleaning (lcl-spec section 3), lower-cased."""

from __future__ import annotations

import html


def clean_text(text: str) -> str:
    """Mend mojibake, resolve HTML entities twice, collapse whitespace, lower-case."""
    # printable ASCII without entities is what most sentences are, and nothing below would change it
    if not (text.isascii() and text.isprintable() and "&" not in text):
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()
