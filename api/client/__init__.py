"""Client of the REST service, used by the command line and the page.

>>> with Client() as client:
...     run = client.submit("pretrain", {"preset": "sample"})
...     run = client.wait(run["id"])

Answers are dictionaries with the keys of the API. ``ApiError`` is an error of the service, ``UserError`` one that a
spec has before it is sent. In an event loop: ``await asyncio.to_thread(client.embed_texts, "mine", texts)``.
"""

from api.client.client import Client
from api.client.inference import TextDelta
from api.client.payloads import Skipped, data_url
from api.client.transport import ApiError
from lcl_core.common.errors import UserError

__all__ = ["ApiError", "Client", "Skipped", "TextDelta", "UserError", "data_url"]
