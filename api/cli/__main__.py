"""``python -m api.cli``: the same as ``lcl``."""

from api.cli.app import main

main()
