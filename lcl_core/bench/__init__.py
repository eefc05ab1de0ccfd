"""Benchmarks that README quotes; each prints one JSON object."""
