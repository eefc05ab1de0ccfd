"""Encoders in memory and collections on disk. Importing this loads no torch; an encoder's first use does."""
