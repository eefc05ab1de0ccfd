"""The sharded form of a corpus: tar shards that any WebDataset tool reads, and an offset index.

Any document is one range read, from a folder or from any fsspec URL. See ``layout`` for what lies where.
"""
