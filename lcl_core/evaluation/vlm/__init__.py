"""Vision-language models: an MLP projector and a causal language model on an image encoder (transfer head (c))."""
