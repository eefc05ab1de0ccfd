"""The typed client of the REST service: what the command line and the page are built on.

>>> with Client() as client:
...     run = client.submit("pretrain", {"preset": "sample"})
...     run = client.wait(run["id"])
"""

from api.client.client import Client
from api.client.errors import ApiError
from api.client.writing import Piece

__all__ = ["ApiError", "Client", "Piece"]
