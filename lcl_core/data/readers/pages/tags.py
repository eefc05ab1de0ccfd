"""Which elements of a page are content, and which surround it."""

from __future__ import annotations

from collections.abc import Mapping


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


BLOCKS = _set(
    "address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption figure "
    "footer form frameset h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu nav ol p pre section summary "
    "table tbody tfoot thead tr ul"
)
HEADINGS = {f"h{level}": level for level in range(1, 7)}
# separate words without ending the block
SPACES = frozenset(("br", "td", "th", "wbr"))

_NEVER_CONTENT = _set(
    "applet area audio button canvas datalist dialog embed frame frameset iframe input map math meter nav noframes "
    "noscript object optgroup option progress script select style svg template textarea title video"
)
_ROLES = frozenset(("alertdialog", "banner", "contentinfo", "menu", "menubar", "navigation", "search", "toolbar"))
# what generators of sites and manuals call their navigation
_CLASSES = _set(
    "breadcrumb breadcrumbs catlinks cookie-banner cookie-notice footer indexterm menu mw-editsection mw-jump-link nav "
    "navbar navfooter navheader navigation noprint pagination prev-next-area printfooter related-pages "
    "site-footer site-header sidebar skip-link sphinxsidebar sr-only toc toctree-wrapper visually-hidden"
)
_IDS = _set(
    "breadcrumb breadcrumbs catlinks footer jump-to-nav menu mw-navigation mw-panel nav navbar navigation sidebar "
    "site-footer site-header toc"
)
_ANCHORS = frozenset(("anchor", "anchorjs-link", "header-anchor", "headeranchor-link", "headerlink", "hash-link"))
_NEVER_SKIPPED = frozenset(("html", "body", "main"))
_BANNERS = frozenset(("header", "footer", "aside"))
FIGURES = frozenset(("figure", "thumb", "wp-caption", "wp-block-image", "mediaobject", "informalfigure"))
CAPTIONS = frozenset(("caption", "caption-text", "figcaption", "figure-caption", "thumbcaption", "wp-caption-text"))


def tokens(attributes: Mapping[str, str], name: str) -> list[str]:
    """The words of an attribute such as ``class``, lower-cased."""
    return attributes.get(name, "").lower().split()


def is_boilerplate(tag: str, attributes: Mapping[str, str], in_article: bool) -> bool:
    """Is this element, with all that it holds, no part of the content?

    A header inside an article is its title, not the site's banner.
    """
    if tag in _NEVER_CONTENT or _is_hidden(attributes):
        return True
    if tag in _NEVER_SKIPPED:
        return False
    if tag in _BANNERS and not (tag == "header" and in_article):
        return True
    if not attributes:
        return False
    classes = tokens(attributes, "class")
    if tag == "a":
        return not _ANCHORS.isdisjoint(classes)
    if not _ROLES.isdisjoint(tokens(attributes, "role")):
        return True
    return tag in BLOCKS and not (_CLASSES.isdisjoint(classes) and _IDS.isdisjoint(tokens(attributes, "id")))


def _is_hidden(attributes: Mapping[str, str]) -> bool:
    if not attributes:
        return False
    if "hidden" in attributes or attributes.get("aria-hidden", "").strip().lower() == "true":
        return True
    style = attributes.get("style", "").lower().replace(" ", "")
    return "display:none" in style or "visibility:hidden" in style
