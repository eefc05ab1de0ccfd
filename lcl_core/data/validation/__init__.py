"""Examining a corpus: read once, in parallel; what it holds, what is wrong with it, and where."""
