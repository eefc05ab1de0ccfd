"""The client for event loops. All but ``blocking`` is made from the plain client, by ``api.client.derivation``.

>>> async with AsyncClient() as client:
...     vectors = await client.embed_texts("mine", ["a red bus"])
"""

from api.client.aio.client import AsyncClient

__all__ = ["AsyncClient"]
