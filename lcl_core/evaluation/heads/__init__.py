"""Heads that are trained on an encoder: the training loop, attentive probes and the contrastive head."""
