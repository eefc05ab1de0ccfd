"""Settings of the documentation site: ``make docs`` runs ``scripts/build_docs.py``, which stages pages for Sphinx."""

project = "LCL"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "index"
myst_heading_anchors = 6  # the fragments that a forge makes of headings, so that links work in both
myst_enable_extensions = ["attrs_inline"]  # anchors within a paragraph
html_theme = "furo"
html_title = "LCL"
html_favicon = "favicon.svg"  # that of the page, which is staged beside the pages
html_static_path = ["assets"]
html_css_files = ["site.css"]
html_js_files = ["search_from_files.js"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_last_updated_fmt = None  # the same sources give the same files
html_search_language = "en"
