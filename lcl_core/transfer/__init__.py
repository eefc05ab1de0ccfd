"""Does pre-training help? Frozen transfer, every number beside chance and the untrained encoder."""
