"""The convert run: from a corpus in any format to shards, registered as a dataset."""
