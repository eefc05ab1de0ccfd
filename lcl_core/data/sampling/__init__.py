"""From corpora to training batches: order, document plans, sample sources, packing and loading."""
