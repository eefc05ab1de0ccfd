"""A causal language model behind an image encoder: the paper's transfer head (c)."""
