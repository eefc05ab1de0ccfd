"""Typed client of the REST service, used by the command line and the page.

>>> with Client() as client:
...     run = client.submit("pretrain", {"preset": "sample"})
...     run = client.wait(run["id"])

``AsyncClient`` has the same calls as coroutines and asynchronous generators. ``ApiError`` is an error of the service,
``UserError`` one that a spec has before it is sent.
"""

from api.client._async.client import AsyncClient
from api.client._sync.client import Client
from api.client.errors import ApiError
from api.client.payloads import FilterOptions, NewItem, Skipped, TextDelta, data_url
from lcl_core.common.errors import UserError

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "FilterOptions",
    "NewItem",
    "Skipped",
    "TextDelta",
    "UserError",
    "data_url",
]
