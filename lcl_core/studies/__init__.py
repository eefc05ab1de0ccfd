"""Studies: the runs that fill a table, and the table. Imports no torch, no database and no web framework."""
