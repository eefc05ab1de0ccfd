"""The typed client of the REST service: what the command line and the page are built on.

>>> with Client() as client:
...     run = client.submit("pretrain", {"preset": "sample"})
...     run = client.wait(run["id"])

``AsyncClient`` has the same calls, to be awaited.
"""

from api.client._async import AsyncClient
from api.client._sync.client import Client
from api.client._sync.data import NewItem
from api.client._sync.inference import Skipped, TextDelta
from api.client.errors import ApiError

__all__ = ["ApiError", "AsyncClient", "Client", "NewItem", "Skipped", "TextDelta"]
