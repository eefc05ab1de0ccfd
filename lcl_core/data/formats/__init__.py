"""Readers of foreign formats: each walks a corpus as it is distributed and yields records and bad items."""
