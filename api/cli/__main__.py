"""``python -m api.cli``: the same as ``lcl``."""

from api.cli import main

main()
