"""The ``lcl`` command line, all of it through ``api.client``."""

from api.cli.app import main

__all__ = ["main"]
