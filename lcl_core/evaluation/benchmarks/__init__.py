"""Questions with known answers, and the adapter for lmms-eval, which has the published benchmarks."""
