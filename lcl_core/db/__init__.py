"""The database of the service: tables, sessions, and every operation on them. Imports no torch and no web framework."""
