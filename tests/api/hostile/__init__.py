"""Encoders that must not be imported."""
