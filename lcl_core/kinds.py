"""The kinds of runs, for those who must not wait for their specs to load."""

KINDS = ("pretrain", "evaluate", "index", "validate", "convert", "match")
