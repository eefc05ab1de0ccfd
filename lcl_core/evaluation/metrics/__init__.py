"""Metrics: ranks, bootstrap intervals, caption metrics (BLEU, ROUGE-L, CIDEr, METEOR)."""
