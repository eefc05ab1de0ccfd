"""Client of the REST service, used by the command line and the page.

>>> with Client() as client:
...     run = client.submit("pretrain", {"preset": "sample"})
...     run = client.wait(run["id"])

Answers are dictionaries with the keys of the API. ``ApiError`` is an error of the service, ``UserError`` one that a
spec has before it is sent. In an event loop: ``await asyncio.to_thread(client.embed_texts, "mine", texts)``.
"""

from api.client.client import Client
from api.client.errors import ApiError
from api.client.payloads import NewItem, Skipped, TextDelta, data_url
from lcl_core.common.errors import UserError

__all__ = [
    "ApiError",
    "Client",
    "NewItem",
    "Skipped",
    "TextDelta",
    "UserError",
    "data_url",
]
