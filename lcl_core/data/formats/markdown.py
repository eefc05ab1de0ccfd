"""A folder of Markdown: wikis, documentation, reports. As for HTML, which it becomes first.

FOLDER/**/*.md, .markdown   pages (CommonMark with tables, HTML inside allowed, front matter passed over)
"""

from __future__ import annotations

import re
from typing import Any

from lcl_core.common.errors import import_optional
from lcl_core.data.formats.html.parser import LINE_ATTRIBUTE, HtmlPage, decode_page, parse_page
from lcl_core.data.formats.html.site import SiteReader

MAX_NESTING = 100
_FRONT_MATTER = re.compile(r"---[ \t]*\n(?:(?!---[ \t]*$).*\n){0,1000}?---[ \t]*(?:\n|\Z)", re.M)
_TITLE = re.compile(r"""^title:[ \t]*["']?(.{1,300}?)["']?[ \t]*$""", re.M)
_IMAGE_TAG = re.compile(r"<img(?=[\s/>])", re.I)


class MarkdownReader(SiteReader):
    """Markdown pages."""

    format = "markdown"
    suffixes = (".md", ".markdown")

    @staticmethod
    def parse(data: bytes) -> HtmlPage:
        text = decode_page(data).replace("\r\n", "\n")
        found = _FRONT_MATTER.match(text)
        title = None
        if found is not None:
            title = _TITLE.search(found[0])
            text = "\n" * found[0].count("\n") + text[found.end() :]
        html, problems = _to_html(text)
        page = parse_page(html, numbered=False)
        return HtmlPage(title[1] if title else page.title, page.base, page.items, problems)


def _to_html(text: str) -> tuple[str, tuple[str, ...]]:
    """HTML whose images have line numbers, and the problems. Raises: UserError ``missing_extra``."""
    markdown_it = import_optional("markdown_it", "reading Markdown")
    parser = markdown_it.MarkdownIt("commonmark", {"html": True, "maxNesting": MAX_NESTING})
    parser.enable(["table", "strikethrough"])
    parser.validateLink = lambda url: True  # references are judged when they are resolved
    tokens = parser.parse(text)
    problems: tuple[str, ...] = ()
    for token in tokens:
        line = token.map[0] + 1 if token.map else 0
        if token.type in ("blockquote_open", "list_item_open") and token.level >= MAX_NESTING - 1:
            problems = (f"line {line}: nested deeper than {MAX_NESTING} levels, what is below is left out",)
        _add_line_number(token, line)
        for child in token.children or ():
            _add_line_number(child, line)
    return str(parser.renderer.render(tokens, parser.options, {})), problems


def _add_line_number(token: Any, line: int) -> None:
    if token.type == "image":
        token.attrSet(LINE_ATTRIBUTE, str(line))
    elif token.type in ("html_block", "html_inline"):
        token.content = _IMAGE_TAG.sub(f'<img {LINE_ATTRIBUTE}="{line}"', token.content)
