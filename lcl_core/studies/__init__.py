"""Studies: which runs fill a table, and what the table says. Knows no torch, no database and no web."""
