"""Examining a corpus: read once, in parallel; what it holds, the problem, and where."""
