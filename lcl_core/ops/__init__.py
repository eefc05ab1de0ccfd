"""Kernels of the model and its losses: attention, recomputation, linear cross-entropy, contrastive loss."""
