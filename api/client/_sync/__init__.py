"""Synchronous client. Generated from ``api.client._async``."""
