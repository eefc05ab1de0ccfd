"""Encoders in memory, ours and other libraries': load, detect, validate, import and export."""
