"""Benchmarks that README and docs quote. Each prints one JSON object."""
