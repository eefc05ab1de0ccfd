# Generated from api/client/_async/__init__.py by scripts/generate_sync_client.py. Do not edit.
"""The synchronous client."""
