"""Modules that an export copies beside the weights, with the product's modules that they import."""
