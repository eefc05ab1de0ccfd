"""Real image-text corpora, cut out of published packages: drawings and screenshots made by people, their own words.

    packages, archives, cache     what comes from where, pinned and unpacked with care
    steps/                        what sources share: texts, pictures, pages, documents, leaks
    sources/                      one file a source
    build, workplace, notices     from a plan to a corpus in the project's own form

``python -m lcl_core.corpora`` is the command.
"""
