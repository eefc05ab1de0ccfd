"""Asynchronous client; the source of the synchronous one."""

from api.client._async.client import AsyncClient

__all__ = ["AsyncClient"]
