"""A folder of HTML: manuals, wikis, reports. A document is a page, or a piece of a long one.

    FOLDER/**/*.html, .htm, .xhtml   pages; images lie where the pages say, below FOLDER

Also a zip of such a folder, or a single page. Texts are sentences, an image stands where the page has it, with its
alternative text and captions right after it. Menus, banners, hidden parts, what most pages repeat, and icons are
left out. Drawings inside the markup (``svg``) are no images.
"""

from __future__ import annotations

from lcl_core.data.readers.pages.encoding import decode_page
from lcl_core.data.readers.pages.items import Page
from lcl_core.data.readers.pages.outline import read_page
from lcl_core.data.readers.pages.site import SiteReader


class WebReader(SiteReader):
    """HTML pages."""

    format = "web"
    suffixes = (".html", ".htm", ".xhtml")

    @staticmethod
    def parse(data: bytes) -> Page:
        return read_page(decode_page(data))
