"""The typed client of the REST service: what the command line and the page are built on.

>>> with Client() as client:
...     run = client.submit("pretrain", {"preset": "sample"})
...     run = client.wait(run["id"])

``AsyncClient`` has the same calls, to be awaited.
"""

from api.client.aio import AsyncClient
from api.client.client import Client
from api.client.collections import NewItem
from api.client.errors import ApiError
from api.client.pictures import Skipped
from api.client.writing import Piece

__all__ = ["ApiError", "AsyncClient", "Client", "NewItem", "Piece", "Skipped"]
