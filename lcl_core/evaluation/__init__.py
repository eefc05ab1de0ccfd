"""Evaluation of encoders: every metric next to chance and to the same encoder with random weights."""
