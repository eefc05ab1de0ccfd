"""Workers hear the doorbell, claim runs and supervise a process for each. They never import torch."""
