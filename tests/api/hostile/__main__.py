"""Write the table of the hostile inputs."""

from tests.api.hostile.table import DOCUMENT, table

DOCUMENT.write_text(table(), encoding="utf-8")
