"""Benchmarks of the service as it is deployed; each prints one JSON object."""
