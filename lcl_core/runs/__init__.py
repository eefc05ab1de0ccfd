"""The database of runs: the one truth about what is queued, running and done. Knows no torch."""
