"""Dialogue benchmarks: each module reads the official files and scores stored answers by the published rule."""
