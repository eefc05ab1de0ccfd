"""Shared by all rooms: errors, files, paths, settings, logging, run directory, sandbox, device."""
