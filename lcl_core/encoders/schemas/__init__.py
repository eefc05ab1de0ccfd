"""Closed schemas of the small files beside an encoder's weights: every name is known and every number bounded."""
