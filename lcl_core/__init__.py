"""Latent Compression Learning: data, model, training, evaluation, collections, serving and the database of runs."""

__version__ = "0.1.0"
