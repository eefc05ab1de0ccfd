"""Workers receive wake-ups, claim runs and supervise one job process for each. They never import torch."""
