"""The asynchronous client, and the source of ``api.client._sync``: ``python scripts/generate_sync_client.py``."""
