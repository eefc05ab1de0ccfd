"""Collections of vectors on disk: format, writer, search, changes, and the runs that make them. Imports no torch."""
