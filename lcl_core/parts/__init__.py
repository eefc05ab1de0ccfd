"""Work over a corpus, cut into parts of its input that run in several processes and resume after an interruption."""
